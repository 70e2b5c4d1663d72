"""When a reply leaves: at a multiple of a public time after its message came, so that its work does not show in it.

Every way on which a client answers holds its replies here. What never lives here: what is answered.
"""

from __future__ import annotations

import time


class ReplyTime:
    """The time of one reply; begins when its message has come.

    Guarantee:
        While the work takes less than one bucket, the time of the reply does not depend on the data.
    """

    def __init__(self) -> None:
        self._came = time.monotonic()

    def hold(self, bucket_seconds: float) -> None:
        """Waits until the next multiple of `privacy.reply_bucket_seconds`.

        Args:
            bucket_seconds: >= 0; 0 waits for nothing. (public)
        """
        if bucket_seconds > 0.0:
            time.sleep(bucket_seconds - (time.monotonic() - self._came) % bucket_seconds)
