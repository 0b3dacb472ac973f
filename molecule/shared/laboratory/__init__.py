"""The local lab: systemd-nspawn machines on a network namespace of their own. `../lab.py` is the way in."""
