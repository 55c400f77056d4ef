#!/usr/bin/env bash
# Builds the site of the documents, follows its links, and searches in it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need sphinx-build python3-sphinx python3-myst-parser
need linkchecker linkchecker
need chromium chromium

step "the site is built, and each link of the documents has a target"
deploy/site/build "$scratch/site"

# linkchecker gives up the rights of root, and must be able to read the site.
step "each link and anchor of the site has a target"
chmod 755 "$scratch"
echo '[AnchorCheck]' >"$scratch/linkchecker.rc"
linkchecker --no-status -f "$scratch/linkchecker.rc" "file://$scratch/site/index.html" >"$scratch/links" 2>&1 || { cat "$scratch/links" && fail "dead links"; }
checked=$(sed -n "s/^That's it. \\([0-9]*\\) links in .*/\\1/p" "$scratch/links")
[ "${checked:-0}" -gt 300 ] || fail "only ${checked:-no} links were checked"

step "nothing is loaded from elsewhere"
if grep -rnoE '<(script|link|img|iframe)[^>]+(src|href)="(https?:)?//[^"]*' "$scratch/site" --include='*.html' ||
	grep -rnoE '(@import|url\()[^;)]*(https?:)?//[^;)]*' "$scratch/site" --include='*.css'; then
	fail "the site needs the internet"
fi

step "a browser finds a page by a word in it"
browse() { chromium --headless --no-sandbox --disable-gpu --user-data-dir="$scratch/browser" --virtual-time-budget=10000 --dump-dom "$1" 2>"$scratch/browser.log"; }
# A result has a score; the same link is in the navigation of every page.
found() { browse "file://$scratch/site/search.html?q=$1" | grep -q "href=\"$2.html[^\"]*\" data-score"; }
found sysadminctl docs/operations || fail "the search does not find sysadminctl"
found crontab docs/backup || fail "the search does not find crontab"
! found nosuchword docs/backup || fail "the search finds what is not there"
browse "file://$scratch/site/index.html" | grep -q 'Five minutes with Assay' || fail "the first page has no navigation"
