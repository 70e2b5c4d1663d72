"""`server.toml`: what an operator set about where the server is.

Written once by `tacit server init`; the operator may change it. What never lives here: a secret, what a run does.
"""

from __future__ import annotations

import tomllib

from pydantic import Field

from server.home import ServerHome
from shared.errors import ConfigError
from shared.files import read_text
from shared.provisioning.fields import Fields, Host, Port, read_fields

SUPERLINK_PORT = 9091


class ServerSettings(Fields):
    """Where a server is.

    Attributes:
        hosts: DNS names and addresses at which nodes reach the proxy; the first is the one that nodes use.
        port: The proxy's, which nodes reach.
        superlink_port: The SuperLink's, on loopback.
    """

    hosts: tuple[Host, ...] = Field(min_length=1, max_length=32)
    port: Port
    superlink_port: Port

    def to_toml(self) -> str:
        """The text of the file."""
        hosts = ", ".join(f'"{host}"' for host in self.hosts)  # hosts hold no character that TOML escapes
        return (
            "# Where this server is. After a change of hosts: tacit server renew --certificate\n"
            f"hosts = [{hosts}]          # as nodes reach it; the first is the one that kits name first\n"
            f"port = {self.port}                      # of the proxy (nginx.conf)\n"
            f"superlink_port = {self.superlink_port}            # of Flower's SuperLink, on loopback alone\n"
        )


def read_settings(home: ServerHome) -> ServerSettings:
    """The settings of a server.

    Raises:
        ConfigError: If the folder is no server's, or the file is damaged.
    """
    try:
        found = tomllib.loads(read_text(home.settings))
    except FileNotFoundError:
        raise ConfigError(
            f"Expected the folder of a server, found no {home.settings.name} in it. Make one with `tacit server init`, or "
            "name another with --server."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Expected settings in {home.settings.name}, could not read them ({type(error).__name__}). Mend the file."
        ) from None
    return read_fields(ServerSettings, found, what="settings", where=home.settings.name, remedy="Mend the file.")
