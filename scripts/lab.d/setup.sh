# Fetches what the lab needs into the cache: QEMU, kernels, busybox, and the initramfs images made of them.
# Every piece is a directory that appears complete or not at all. Sourced by scripts/lab.
# shellcheck shell=bash disable=SC2154

# shellcheck source=initramfs.sh
. "$lab_d/initramfs.sh"
# shellcheck source=debian.sh
. "$lab_d/debian.sh"

# Commands the scripts and the tests call, with the package that brings each.
tools=(debootstrap:debootstrap cpio:cpio xz:xz-utils zstd:zstd lz4:lz4 curl:curl depmod:kmod lspci:pciutils
  ip:iproute2 strace:strace python3:python3 mke2fs:e2fsprogs)

# The release whose QEMU has a working igb with virtual functions.
qemu_release=trixie

# setup [guests]: everything, or only what a guest on a real host needs.
setup() {
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  install_tools
  publish "$cache/busybox" fetch_busybox
  local flavour
  for flavour in "${flavours[@]}"; do
    publish "$cache/kernels/$flavour" fetch_kernel "$flavour"
    publish "$(guest_image_dir "$flavour")" build_guest_image "$flavour"
  done
  if [ "${1:-}" != guests ]; then
    publish "$(base_root)" fetch_base
    publish "$(qemu_root)" fetch_qemu
    publish "$(qemu_mended)" mend_qemu
    publish "$(host_image_dir)" build_host_image
    publish "$cache/disk" build_disk
    publish "$cache/kexec" build_kexec
    publish "$(debian_dir)" build_debian
  fi
  exec 9>&-
}

install_tools() {
  local tool missing=()
  for tool in "${tools[@]}"; do
    command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
  done
  [ ${#missing[@]} -eq 0 ] && return
  [ "$(id -u)" = 0 ] || die "setup installs ${missing[*]} and needs root"
  note "installing ${missing[*]}"
  refresh_lists
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >"$cache/setup.log" 2>&1 ||
    die "apt-get install ${missing[*]} failed: see $cache/setup.log"
}

# Package lists, once a setup: absent on a fresh machine, and stale ones name files that are gone.
refresh_lists() {
  [ -n "${lists_are_fresh:-}" ] && return
  apt-get update -q >"$cache/setup.log" 2>&1 || die "apt-get update failed: see $cache/setup.log"
  lists_are_fresh=yes
}

# The address this machine takes its Debian packages from.
mirror() {
  apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
    awk '$2 == codename && $3 == "main" { print $1; exit }' codename="$(. /etc/os-release; echo "$VERSION_CODENAME")"
}

# download_package NAME DIR: unpacks a package without installing it.
download_package() (
  cd "$2"
  apt-get download -q -o APT::Sandbox::User=root "$1"
  dpkg-deb -x ./*.deb .
  rm ./*.deb
)

base_root() { echo "$cache/base-$qemu_release"; }

# A small Debian of that release, which others are made from.
fetch_base() {
  local root=$1 from
  [ "$(id -u)" = 0 ] || { echo "debootstrap needs root"; return 1; }
  refresh_lists
  from=$(mirror)
  [ -n "$from" ] || { echo "apt's sources name no Debian mirror"; return 1; }
  debootstrap --variant=minbase "$qemu_release" "$root" "$from" && clean_tree "$root"
}

fetch_qemu() {
  copy_base "$1" qemu-system-x86 seabios ipxe-qemu
}

# copy_base ROOT PACKAGE...: that Debian with more packages. It may be older than what there is to fetch.
copy_base() {
  local root=$1
  shift
  cp -a "$(base_root)/." "$root" &&
    chroot "$root" apt-get update -q &&
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -q --no-install-recommends "$@" &&
    clean_tree "$root"
}

# clean_tree ROOT: without what only a person would read, or apt.
clean_tree() {
  rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/usr/share/{doc,locale,man}
}

# A QEMU that cannot be mended serves as it is; guests hang now and then.
mend_qemu() {
  local status
  "$lab_d/mend-qemu" "$(qemu_root)/usr/bin/qemu-system-x86_64" "$1/qemu-system-x86_64"
  status=$?
  [ $status -ne 3 ] || note "QEMU stays as it is: guests in the lab may hang (docs/testing.md)"
  [ $status -eq 0 ] || [ $status -eq 3 ]
}

fetch_busybox() {
  refresh_lists
  download_package busybox-static "$1"
}

# fetch_kernel FLAVOUR DIR: DIR gets vmlinuz, vmlinux (the ELF inside, for PVH), version and lib/modules.
fetch_kernel() {
  local flavour=$1 dir=$2 meta package
  refresh_lists
  meta=$(meta_package "$flavour")
  package=$(apt-cache depends --no-recommends --no-suggests "$meta" |
    awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }')
  [ -n "$package" ] || { echo "$meta depends on no kernel"; return 1; }
  download_package "$package" "$dir" || return
  echo "${package#linux-image-}" >"$dir/version"
  mv "$dir"/boot/vmlinuz-* "$dir/vmlinuz" && mv "$dir"/boot/config-* "$dir/config" && rm -r "$dir/boot" &&
    extract_elf "$dir/vmlinuz" >"$dir/vmlinux" &&
    depmod -b "$dir" "$(cat "$dir/version")"
}

# Debian 12's own kernel is 6.1 and its meta-package carries no version.
meta_package() {
  case $1 in
    6.1-*) echo "linux-image-${1#6.1-}" ;;
    *) echo "linux-image-$1" ;;
  esac
}

# extract_elf BZIMAGE: the ELF kernel in a bzImage, found by the setup header's setup_sects (0x1f1),
# payload_offset (0x248) and payload_length (0x24c): Documentation/arch/x86/boot.rst.
extract_elf() {
  local image=$1 sectors offset length
  sectors=$(header_field 1 497 "$image")
  offset=$(header_field 4 584 "$image")
  length=$(header_field 4 588 "$image")
  offset=$((offset + (sectors + 1) * 512))
  # All but gzip have the unpacked size, four bytes, appended.
  payload() { dd if="$image" iflag=skip_bytes,count_bytes skip="$offset" count=$((length - $1)) bs=64K status=none; }
  case $(od -An -tx1 -j "$offset" -N 4 "$image" | tr -d ' ') in
    fd377a58) payload 4 | xz -dc ;;
    28b52ffd) payload 4 | zstd -dcq ;;
    02214c18) payload 4 | lz4 -dc ;;
    1f8b*) payload 0 | gzip -dc ;;
    *) echo "$image: unknown compression" >&2; return 1 ;;
  esac
}

header_field() { od -An -t "u$1" -j "$2" -N "$1" "$3" | tr -d ' '; }

# kexec for a guest: an archive to append to its initramfs, of the tool and the libraries that it loads.
build_kexec() {
  local dir=$1 package library packages=$1/packages root=$1/root
  mkdir -p "$packages" "$root"/{sbin,lib64,lib/x86_64-linux-gnu}
  refresh_lists
  download_package kexec-tools "$packages" || return
  for package in $(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances kexec-tools | grep '^libxen'); do
    download_package "$package" "$packages" || return
  done
  cp "$packages/sbin/kexec" "$root/sbin/"
  for library in $(LD_LIBRARY_PATH=$packages/usr/lib/x86_64-linux-gnu ldd "$root/sbin/kexec" | grep -o '/[^ ]*'); do
    cp -L "$library" "$root/lib/x86_64-linux-gnu/"
  done
  mv "$root"/lib/x86_64-linux-gnu/ld-linux* "$root/lib64/" &&
    (cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$dir/archive" && rm -r "$root" "$packages"
}

# A disk whose content is random but known, so that what a guest reads can be compared.
build_disk() {
  head -c 64M /dev/urandom >"$1/disk.raw" &&
    sha256sum <"$1/disk.raw" | cut -d' ' -f1 >"$1/sha256"
}
