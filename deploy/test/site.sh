#!/usr/bin/env bash
# Builds the site of the documents, follows its links, and searches in it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need sphinx-build python3-sphinx python3-myst-parser
need chromium chromium

step "the site is built, and each link of the documents has a target"
deploy/site/build "$scratch/site"

step "each link and anchor of the site has a target"
GOBIN=$scratch go install github.com/wjdp/htmltest@v0.17.0
cat >"$scratch/htmltest.yml" <<END
DirectoryPath: $scratch/site
CheckExternal: false
CheckDoctype: true
IgnoreDirectoryMissingTrailingSlash: true
OutputDir: $scratch/htmltest
END
"$scratch/htmltest" --conf "$scratch/htmltest.yml"

step "nothing is loaded from elsewhere"
if grep -rnoE '<(script|link|img|iframe)[^>]+(src|href)="(https?:)?//[^"]*' "$scratch/site" --include='*.html' ||
	grep -rnoE '(@import|url\()[^;)]*(https?:)?//[^;)]*' "$scratch/site" --include='*.css'; then
	fail "the site needs the internet"
fi

step "a browser finds a page by a word in it"
browse() { chromium --headless --no-sandbox --disable-gpu --user-data-dir="$scratch/browser" --virtual-time-budget=10000 --dump-dom "$1" 2>"$scratch/browser.log"; }
found() { browse "file://$scratch/site/search.html?q=$1" | grep -q "href=\"$2.html[^\"]*\""; }
found sysadminctl docs/operations || fail "the search does not find sysadminctl"
found crontab docs/backup || fail "the search does not find crontab"
! found nosuchword docs/backup || fail "the search finds what is not there"
browse "file://$scratch/site/index.html" | grep -q 'Five minutes with Assay' || fail "the first page has no navigation"
