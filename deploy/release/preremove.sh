#!/bin/sh
# Before a removal. An upgrade removes nothing: postinstall restarts what runs.
set -e
case "$1" in
upgrade | failed-upgrade | 1) exit 0 ;; # deb; rpm
esac
if [ -d /run/systemd/system ]; then
	systemctl disable --now assay.socket assay.service || true
fi
