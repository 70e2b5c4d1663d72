"""Provisioning, as both sides read it: requests of nodes, kits and rosters of a server, fingerprints, validity."""
