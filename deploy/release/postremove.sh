#!/bin/sh
# After a removal. No package removes the data: the own log in it cannot be made again.
set -e
case "$1" in
upgrade | failed-upgrade | abort-* | disappear | 1) exit 0 ;; # deb; rpm
esac
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
for data in /var/lib/private/assay /var/lib/assay; do
	if [ -d "$data" ] && [ ! -L "$data" ]; then
		echo "assay: the data in $data are kept; if they have no own log that you need, remove them yourself"
	fi
done
