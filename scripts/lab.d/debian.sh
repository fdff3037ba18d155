# Builds the Debian that a guest boots from a virtio disk: a root file system in a raw image, and the initramfs that finds it.
# Nothing is mounted for it. Sourced by setup.sh.
# shellcheck shell=bash disable=SC2154

# Whose kernel and modules it runs with.
debian_flavour=6.12-amd64
# What a small Debian lacks to be a machine of its own.
debian_packages=(systemd-sysv udev kmod iproute2 iputils-ping)
# Of its root.
debian_password=hotbay
# Until the root file system is there. Drivers of all else are in that, for udev to load.
debian_boot_modules=(virtio_pci virtio_blk ext4 crc32c_generic)
# MiB that the guest may write.
debian_room=64

debian_dir() {
  echo "$cache/debian/$(image_key "$lab_d/debian.sh" "$lab_d/debian-init" "$cache/kernels/$debian_flavour/version")"
}

# build_debian DIR: DIR/root.img and DIR/initramfs.
build_debian() {
  local dir=$1 root=$1/tree
  build_image "$debian_flavour" "$lab_d/debian-init" "$dir" "${debian_boot_modules[@]}" &&
    mkdir "$root" && copy_base "$root" "${debian_packages[@]}" &&
    configure_debian "$root" &&
    copy_modules "$cache/kernels/$debian_flavour" "$root" "${guest_modules[@]}" &&
    pack_file_system "$root" "$dir/root.img" &&
    rm -r "$root"
}

configure_debian() {
  local root=$1
  rm -f "$root/etc/resolv.conf"
  echo debian >"$root/etc/hostname"
  echo "root:$debian_password" | chroot "$root" chpasswd
  # Nothing but a login on the serial port, and nothing that begins by itself later. systemctl works on files here.
  chroot "$root" systemctl mask getty@tty1.service systemd-pstore.service systemd-random-seed.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer
}

# pack_file_system TREE IMAGE: an ext4 file system of TREE's files, with some room.
pack_file_system() {
  local size
  size=$(($(du -sm "$1" | cut -f1) * 11 / 10 + debian_room))
  mke2fs -q -t ext4 -L debian -m 0 -E lazy_itable_init=0,lazy_journal_init=0 -d "$1" "$2" "${size}M"
}
