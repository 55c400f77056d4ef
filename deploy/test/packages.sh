#!/usr/bin/env bash
# A release: built twice, signed, verified, installed. The deb, and after it the rpm, is installed, upgraded and
# removed in a Debian that debootstrap makes; the apk is read; the image is pulled and run, and its program
# for arm64 is run by qemu.
#
# RELEASE_TARGETS=all builds every platform, and not only those of the image. RELEASE_COSIGN=no leaves out
# cosign, which takes minutes to build.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

[ "$(go env GOOS)/$(go env GOARCH)" = linux/amd64 ] && [ "$(id -u)" = 0 ] || { echo "needs root on linux/amd64" && exit 77; }
need rpm rpm
need jq jq
need zip zip
need envsubst gettext-base
need ruby ruby

export TOOLS=$shared/tools
image_targets="linux/amd64 linux/arm64"

step "build a release, in which no program is over 40 MB"
release=$scratch/release targets=$image_targets
[ "${RELEASE_TARGETS:-}" != all ] || targets=
TARGETS=$targets deploy/release/build "$release" >"$scratch/build.log" 2>&1 || { cat "$scratch/build.log" && fail "no release"; }
grep ' bytes$' "$scratch/build.log"
archive=$(echo "$release"/assay_*_linux_amd64.tar.gz)
version=${archive##*/assay_} version=${version%_linux_amd64.tar.gz}

step "build it again, elsewhere, with other caches: every file is equal"
again=$scratch/another/directory
mkdir "${again%/*}"
TARGETS=$image_targets GOMODCACHE=$scratch/modcache GOCACHE=$scratch/cache deploy/release/build "$again" >"$scratch/again.log" 2>&1 ||
	{ cat "$scratch/again.log" && fail "no second release"; }
rm -rf "$scratch/cache" # gigabytes
[ "$(wc -l <"$again/SHA256SUMS")" = 11 ] || fail "the second release has other files: $(cat "$again/SHA256SUMS")"
! grep -vxFf "$release/SHA256SUMS" "$again/SHA256SUMS" || fail "the second release differs"

step "the program says what it is, and fits its budget"
mkdir "$scratch/unpacked"
tar -xzf "$archive" -C "$scratch/unpacked"
said=$("$scratch/unpacked/assay" version --json)
[ "$(jq -r .commit <<<"$said")" = "$(git rev-parse HEAD)" ] && [ "$(jq -r .dirty <<<"$said")" = false ] || fail "it says $said"
size=$(stat -c %s "$scratch/unpacked/assay")
[ "$size" -le $((40 << 20)) ] || fail "the program has $size bytes"

step "the bill of materials names each module of the program"
go version -m "$scratch/unpacked/assay" | awk '$1 == "dep" {print $2 "@" $3}' | sort >"$scratch/modules"
jq -r '.components[] | select(.name != "std") | .name + "@" + .version' "$release/assay_${version}_linux_amd64.cdx.json" | sort >"$scratch/named"
diff "$scratch/modules" "$scratch/named" || fail "the bill of materials differs from the program"

step "sign and verify SHA256SUMS, with keys for this test"
MINISIGN=$(tool aead.dev/minisign/cmd/minisign v0.3.0)
export MINISIGN
"$MINISIGN" -G -W -p "$scratch/minisign.pub" -s "$scratch/minisign.key" >/dev/null
signers=("$scratch/minisign.key")
if [ "${RELEASE_COSIGN:-yes}" = yes ]; then
	COSIGN=$(tool github.com/sigstore/cosign/v3/cmd/cosign v3.1.3)
	export COSIGN COSIGN_PASSWORD=
	(cd "$scratch" && "$COSIGN" generate-key-pair >/dev/null 2>&1)
	signers+=("$scratch/cosign.key")
fi
deploy/release/sign "$release" "${signers[@]}"
verified() {
	"$MINISIGN" -V -q -p "$scratch/minisign.pub" -m "$1/SHA256SUMS" &&
		{ [ "${RELEASE_COSIGN:-yes}" != yes ] || "$COSIGN" verify-blob --key "$scratch/cosign.pub" --insecure-ignore-tlog=true \
			--bundle "$1/SHA256SUMS.sigstore.json" "$1/SHA256SUMS" 2>/dev/null; } &&
		(cd "$1" && sha256sum --quiet -c SHA256SUMS)
}
verified "$release" || fail "the signatures or sums do not verify"
cp -r "$release" "$scratch/forged"
sed -i '1s/^./x/' "$scratch/forged/SHA256SUMS"
! verified "$scratch/forged" 2>/dev/null || fail "changed sums verify"

step "rpm and apk have what the deb has"
deb=$(echo "$release"/*_amd64.deb) rpm=$(echo "$release"/*.x86_64.rpm) apk=$(echo "$release"/*_x86_64.apk)
files() { sed -n 's#^\.\?/\?\(etc\|usr\)/#/\1/#p' | sed 's#/zsh/[a-z-]*/#/zsh/#' | grep -v '/$' | sort; }
dpkg-deb -c "$deb" | awk '{print $6}' | files >"$scratch/deb.files"
rpm -qpl "$rpm" 2>/dev/null | files >"$scratch/rpm.files"
tar -tzf "$apk" 2>/dev/null | files >"$scratch/apk.files"
diff "$scratch/deb.files" "$scratch/rpm.files" && diff "$scratch/deb.files" "$scratch/apk.files" || fail "the packages differ"
for file in /usr/bin/assay /usr/lib/systemd/system/assay.service /usr/lib/systemd/system/assay.socket /etc/assay/assay.toml /usr/share/man/man1/assay-serve.1.gz \
	/usr/share/bash-completion/completions/assay /usr/share/fish/vendor_completions.d/assay.fish /usr/share/zsh/_assay; do
	grep -qx "$file" "$scratch/deb.files" || fail "the packages have no $file"
done
rpm -qp --configfiles "$rpm" 2>/dev/null | grep -qx /etc/assay/assay.toml || fail "the rpm replaces changed settings"

step "the formula for Homebrew is Ruby"
formula=$release/assay.rb
if [ -e "$formula" ]; then
	for sum in $(sed -n 's/^ *sha256 "\(.*\)"/\1/p' "$formula"); do grep -q "^$sum " "$release/SHA256SUMS" || fail "the formula has $sum"; done
	! grep @ "$formula" || fail "the formula has a placeholder"
else
	formula=deploy/release/assay.rb.in
fi
ruby -c "$formula"

step "a Debian, and newer packages"
debian=$scratch/debian
debian "$debian"
enter=(chroot "$debian" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root)
inside() { "${enter[@]}" "$@"; }
mkdir "$scratch/docs" "$scratch/newer"
cp "$scratch/unpacked/man"/* "$scratch/unpacked/completions"/* "$scratch/docs"
VERSION=9999.0.0 ARCH=amd64 deploy/release/package "$scratch/unpacked/assay" "$scratch/docs" "$scratch/newer" "$TOOLS/nfpm"
cp "$deb" "$debian/assay.deb"
cp "$scratch"/newer/*.deb "$debian/newer.deb"

step "install, and serve"
inside dpkg -i /assay.deb >"$scratch/dpkg.log" 2>&1 || { cat "$scratch/dpkg.log" && fail "dpkg -i"; }
grep -q 'systemctl enable --now assay' "$scratch/dpkg.log" || fail "the package does not say how to start"
[ "$(inside assay version --json | jq -r .version)" = "$(jq -r .version <<<"$said")" ] || fail "another program is installed"
"${enter[@]}" assay serve --config /etc/assay/assay.toml --data /var/lib/assay --listen 127.0.0.1:0 --upstream off \
	>"$scratch/serve.log" 2>&1 &
server=$!
atexit kill "$server" 2>/dev/null
url() { sed -n 's,.*\(http://localhost:[0-9]*\).*,\1,p' "$scratch/serve.log" | head -n 1 | grep .; }
eventually 30 url >/dev/null
eventually 30 curl -fsS -o /dev/null "$(url)/readyz"
kill "$server"
wait "$server" || true

step "upgrade: changed settings and data stay"
echo 'zip_fills = 7 # mine' >>"$debian/etc/assay/assay.toml"
inside dpkg -i /newer.deb >"$scratch/dpkg.log" 2>&1 </dev/null || { cat "$scratch/dpkg.log" && fail "upgrade"; }
grep -q mine "$debian/etc/assay/assay.toml" || fail "the upgrade lost the settings"
[ "$(inside dpkg-query -W -f '${Version}' assay)" = 9999.0.0 ] || fail "it was not upgraded"
inside assay verify --data /var/lib/assay >/dev/null || fail "the data do not verify"

step "remove: settings and data stay; purge: data stay, and it says so"
inside dpkg -r assay >"$scratch/dpkg.log" 2>&1 || { cat "$scratch/dpkg.log" && fail "remove"; }
[ ! -e "$debian/usr/bin/assay" ] && [ -e "$debian/etc/assay/assay.toml" ] || fail "remove left the program, or took the settings"
inside dpkg -P assay >"$scratch/dpkg.log" 2>&1 || { cat "$scratch/dpkg.log" && fail "purge"; }
[ ! -e "$debian/etc/assay" ] && [ -e "$debian/var/lib/assay/meta.db" ] || fail "purge left settings, or took the data"
grep -q 'the data in /var/lib/assay are kept' "$scratch/dpkg.log" || fail "purge does not say that it keeps the data"

step "the rpm: installed, upgraded, removed, by the rpm of Debian"
# Debian keeps a database of rpm below the home of the user, and the root has none of rpm's packages.
inrpm() { rpm --root "$debian" --dbpath /var/lib/rpm --nodeps "$@" >"$scratch/rpm.log" 2>&1 || { cat "$scratch/rpm.log" && fail "rpm $*"; }; }
installed() { rpm --root "$debian" --dbpath /var/lib/rpm -q --qf '%{version}' assay; }
inrpm -i "$rpm"
grep -q 'systemctl enable --now assay' "$scratch/rpm.log" || fail "the rpm does not say how to start"
[ "$(inside assay version --json | jq -r .version)" = "$(jq -r .version <<<"$said")" ] || fail "another program is installed"
echo 'zip_fills = 7 # mine' >>"$debian/etc/assay/assay.toml"
inrpm -U "$scratch"/newer/*.rpm
! grep 'the data in' "$scratch/rpm.log" || fail "an upgrade says what a removal says"
grep -q mine "$debian/etc/assay/assay.toml" || fail "the upgrade lost the settings"
[ "$(installed)" = 9999.0.0 ] || fail "$(installed) is installed"
inside assay verify --data /var/lib/assay >/dev/null || fail "the data do not verify"
inrpm -e assay
[ ! -e "$debian/usr/bin/assay" ] && [ -e "$debian/var/lib/assay/meta.db" ] || fail "the removal left the program, or took the data"
grep -q 'the data in /var/lib/assay are kept' "$scratch/rpm.log" || fail "the removal does not say that it keeps the data"
grep -q mine "$debian/etc/assay/assay.toml.rpmsave" || fail "the removal took the settings"

step "the image's program for arm64 starts and serves a go command"
qemu=$scratch/qemu
mkdir "$qemu" "$scratch/layout"
(cd "$qemu" && apt-get update -q && apt-get download -q qemu-user-static && dpkg -x qemu-user-static_*.deb .) >"$scratch/apt.log" 2>&1 ||
	{ cat "$scratch/apt.log" && fail "no qemu"; }
tar -xf "$release/assay_${version}_oci.tar" -C "$scratch/layout"
blob() { echo "$scratch/layout/blobs/${1/://}"; }
index=$(blob "$(jq -r '.manifests[0].digest' "$scratch/layout/index.json")")
manifest=$(blob "$(jq -r '.manifests[] | select(.platform.architecture == "arm64").digest' "$index")")
mkdir "$scratch/arm64"
tar -xzf "$(blob "$(jq -r '.layers[0].digest' "$manifest")")" -C "$scratch/arm64"
cp "$qemu/usr/bin/qemu-aarch64-static" "$scratch/arm64/qemu"
"$(helper)" module "$scratch/arm64/modules" example.com/hello 1000
arm64=(chroot --userspec=65532:65532 "$scratch/arm64" /qemu /assay)
[ "$("${arm64[@]}" version --json | jq -r .arch)" = arm64 ] || fail "the program says $("${arm64[@]}" version --json)"
"${arm64[@]}" serve --data /data --listen 127.0.0.1:0 --upstream file:///modules --sumdb off >"$scratch/serve.log" 2>&1 &
server=$!
atexit kill "$server" 2>/dev/null
eventually 60 url >/dev/null
GOPROXY=$(url) GOSUMDB=off GOMODCACHE=$scratch/downloaded GOFLAGS=-modcacherw go mod download example.com/hello@v1.0.0
[ -e "$scratch/downloaded/example.com/hello@v1.0.0/x.go" ] || fail "the go command has not got the module"
kill "$server"
wait "$server" || fail "it did not stop well"

step "the image runs"
if docker info >/dev/null 2>&1; then
	crane=$(tool github.com/google/go-containerregistry/cmd/crane v0.22.1)
	"$crane" registry serve --address 127.0.0.1:0 >"$scratch/registry.log" 2>&1 &
	atexit kill $!
	port() { sed -n "s/.*serving on port //p" "$scratch/registry.log" | grep .; }
	eventually 20 port >/dev/null
	image=127.0.0.1:$(port)/assay-test-packages:$$
	"$crane" push "$scratch/layout" "$image" >/dev/null 2>&1 || fail "the image is not valid"
	"$crane" validate --remote "$image" >/dev/null 2>&1 || fail "the image is not valid"
	docker pull -q "$image" >/dev/null
	atexit docker rmi -f "$image" >/dev/null
	[ "$(docker run --rm "$image" version --json | jq -r .commit)" = "$(git rev-parse HEAD)" ] || fail "the image has another program"
	docker run -d --name "assay-test-packages-$$" --read-only --cap-drop ALL "$image" serve --upstream off >/dev/null
	atexit docker rm -f -v "assay-test-packages-$$" >/dev/null
	eventually 30 docker exec "assay-test-packages-$$" /assay health >/dev/null
else
	echo "no Docker engine: the image was not run"
fi
