#!/bin/sh
# After an installation or an upgrade. It starts nothing that was not running: the address to listen on is
# the administrator's decision. A running service gets the new program.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl --no-block try-restart assay.service || true
fi
case "$1" in
configure) [ -n "$2" ] && exit 0 ;; # deb, an upgrade
2) exit 0 ;;                        # rpm, an upgrade
esac
echo "assay: edit /etc/assay/assay.toml, then: systemctl enable --now assay"
