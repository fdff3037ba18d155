# Builds the two kinds of initramfs: the emulated host's and the guests'. Sourced by setup.sh.
# They are plain cpio: under emulation, unpacking costs more than reading.
# shellcheck shell=bash disable=SC2154

# What the emulated host may load, before and after it has switched to this machine's root.
host_modules=(virtio_pci 9pnet_virtio 9p overlay virtio_console
  kvm kvm-amd kvm-intel vfio-pci vfio_iommu_type1 igb igbvf e1000e nvme virtio_net tun dummy macvtap bridge vhost_net vhost_vsock msr)

# What a guest may load: drivers of the functions we pass through, and of our own devices and its power button.
guest_modules=(e1000e igb igbvf nvme virtio_pci virtio_net virtio_blk virtio_console virtio-rng virtio_balloon af_packet
  vmw_vsock_virtio_transport virtiofs msr cpuid button evdev)

# Images are named by what they are made from, so a change to a script or list makes a new one.
image_key() { cat "$lab_d/initramfs.sh" "$@" | sha256sum | cut -c1-12; }
host_image_dir() { echo "$cache/host/$(image_key "$lab_d/host-init" "$cache/kernels/$host_flavour/version")"; }
guest_image_dir() { echo "$cache/guests/$1-$(image_key "$lab_d/guest-init" "$cache/kernels/$1/version")"; }

build_host_image() {
  build_image "$host_flavour" "$lab_d/host-init" "$1" "${host_modules[@]}"
}

build_guest_image() {
  build_image "$1" "$lab_d/guest-init" "$2" "${guest_modules[@]}"
}

# build_image FLAVOUR INIT DIR MODULE...: DIR/initramfs with busybox, INIT and the modules with what they need.
build_image() {
  local flavour=$1 init=$2 dir=$3 root
  shift 3
  root=$dir/root
  mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,tmp,root,etc,mnt,usr}
  ln -s ../bin ../sbin "$root/usr/"
  cp "$cache/busybox/bin/busybox" "$root/bin/"
  "$root/bin/busybox" --install -s "$root/bin" && relink_applets "$root"
  install -m 755 "$init" "$root/init"
  copy_modules "$cache/kernels/$flavour" "$root" "$@" || return
  (cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$dir/initramfs" && rm -r "$root"
}

# busybox links its applets to the path it was called by; inside the image that is /bin/busybox.
relink_applets() {
  find "$1/bin" -type l -exec ln -sf /bin/busybox {} \;
}

# copy_modules KERNEL ROOT MODULE...: a decompressed subset of KERNEL's modules, closed over dependencies.
# A module this kernel has built in or lacks is left out.
copy_modules() {
  local kernel=$1 root=$2 version module path
  version=$(cat "$kernel/version")
  shift 2
  for module; do
    modprobe -d "$kernel" -S "$version" -D "$module" 2>/dev/null
  done | awk '$1 == "insmod" { print $2 }' | sort -u | while read -r path; do
    copy_module "$path" "$root/lib/modules${path#*/lib/modules}"
  done
  mkdir -p "$root/lib/modules/$version"
  cp "$kernel/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$root/lib/modules/$version/"
  depmod -b "$root" "$version"
}

copy_module() {
  mkdir -p "${2%/*}"
  case $1 in
    *.xz) xz -dc "$1" >"${2%.xz}" ;;
    *.zst) zstd -dcq "$1" >"${2%.zst}" ;;
    *) cp "$1" "$2" ;;
  esac
}
