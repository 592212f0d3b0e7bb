//! The table of magics: what lies where, and who says so.
//!
//! The facts are those of util-linux 2.38 (`libblkid/src/superblocks`, one file per row in `source`), of the
//! kernel, and of the formats' own documents; a few rows go further than libblkid does (backup copies, magics
//! that it learned later). A row's check only tells kinds apart and keeps magics of two bytes from being seen
//! everywhere: where libblkid drops a superblock because its checksum is wrong, it is named here all the same.
//! A damaged superblock is data too.

use super::checks as check;
use super::checks::Details;
use super::probe::Probe;
use crate::model::SignatureClass;
use crate::model::SignatureClass::{Container, Crypto, Filesystem, Raid, Swap};

/// What an offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The first byte.
    Start,
    /// The last byte's follower, cut down to a multiple of this.
    End(u64),
}

/// A place where a superblock can lie.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// What `offset` counts from: forwards from the start, backwards from the end.
    pub base: Base,
    /// Bytes.
    pub offset: u64,
    /// Tried this often …
    pub count: u64,
    /// … this many bytes apart.
    pub stride: u64,
    /// A copy: only reported when no place before it held anything.
    pub backup: bool,
}

pub(super) const fn at(offset: u64) -> Place {
    Place {
        base: Base::Start,
        offset,
        count: 1,
        stride: 0,
        backup: false,
    }
}

/// `sectors` of 512 bytes before the end.
const fn tail(sectors: u64) -> Place {
    end(512, sectors * 512)
}

/// `offset` bytes before the end, the end cut down to a multiple of `align`.
const fn end(align: u64, offset: u64) -> Place {
    Place {
        base: Base::End(align),
        offset,
        count: 1,
        stride: 0,
        backup: false,
    }
}

impl Place {
    const fn backup(mut self) -> Self {
        self.backup = true;
        self
    }

    pub(super) const fn times(mut self, count: u64, stride: u64) -> Self {
        self.count = count;
        self.stride = stride;
        self
    }

    /// First byte of the superblock on a device of `size` bytes; none when it has no such place.
    pub fn resolve(&self, size: u64) -> Option<u64> {
        match self.base {
            Base::Start => Some(self.offset).filter(|offset| *offset < size),
            Base::End(align) => (size - size.checked_rem(align)?).checked_sub(self.offset),
        }
    }
}

/// A row of the table.
pub struct Row {
    /// libblkid's name of it; the check may say it more precisely.
    pub kind: &'static str,
    /// Broad class.
    pub class: SignatureClass,
    /// Where the fact comes from.
    pub source: &'static str,
    /// Smaller devices cannot hold one.
    pub least: u64,
    /// Offset of the magic within the superblock.
    pub magic_at: u64,
    /// Any of these.
    pub magics: &'static [&'static [u8]],
    /// At any of these.
    pub places: &'static [Place],
    /// Tells more about the superblock there, or that it is none.
    pub look: fn(&mut Probe<'_, '_>, u64) -> Option<Details>,
}

pub(super) const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

pub(super) const fn row(
    kind: &'static str,
    class: SignatureClass,
    source: &'static str,
    magic_at: u64,
    magics: &'static [&'static [u8]],
    places: &'static [Place],
    look: fn(&mut Probe<'_, '_>, u64) -> Option<Details>,
) -> Row {
    Row {
        kind,
        class,
        source,
        least: 0,
        magic_at,
        magics,
        places,
        look,
    }
}

impl Row {
    const fn least(mut self, least: u64) -> Self {
        self.least = least;
        self
    }
}

const UFS_MAGICS: &[&[u8]] = &[
    &[0x54, 0x19, 0x01, 0x00],
    &[0x00, 0x01, 0x19, 0x54],
    &[0x19, 0x01, 0x54, 0x19],
    &[0x19, 0x54, 0x01, 0x19],
    &[0x12, 0x56, 0x19, 0x00],
    &[0x00, 0x19, 0x56, 0x12],
    &[0x14, 0x50, 0x09, 0x00],
    &[0x00, 0x09, 0x50, 0x14],
    &[0x95, 0x21, 0x61, 0x00],
    &[0x00, 0x61, 0x21, 0x95],
    &[0x94, 0x19, 0x23, 0x05],
    &[0x05, 0x23, 0x19, 0x94],
];

const SWAP_PLACES: &[Place] = &[at(0xff6), at(0x1ff6), at(0x3ff6), at(0x7ff6), at(0xfff6)];

/// The table, in libblkid's order where it matters.
#[rustfmt::skip]
pub static TABLE: &[Row] = &[
    // Members of arrays and volume groups.
    row("linux_raid_member", Raid, "linux_raid.c (0.90; kernel md_p.h)", 0,
        &[&[0xfc, 0x4e, 0x2b, 0xa9], &[0xa9, 0x2b, 0x4e, 0xfc]], &[end(64 * KIB, 64 * KIB)], check::md0),
    row("linux_raid_member", Raid, "linux_raid.c (1.0, 1.1, 1.2; kernel md_p.h)", 0,
        &[&[0xfc, 0x4e, 0x2b, 0xa9]], &[end(4 * KIB, 8 * KIB), at(0), at(4 * KIB)], check::md1),
    row("ddf_raid_member", Raid, "ddf_raid.c", 0,
        &[&[0xde, 0x11, 0xde, 0x11], &[0x11, 0xde, 0x11, 0xde]], &[tail(1), tail(257)], check::ddf),
    row("isw_raid_member", Raid, "isw_raid.c; 4 KiB sectors: mdadm super-intel.c", 0,
        &[b"Intel Raid ISM Cfg Sig. "], &[tail(2), tail(16)], check::isw),
    row("lsi_mega_raid_member", Raid, "lsi_raid.c", 0, &[b"$XIDE$"], &[tail(1)], check::none),
    row("via_raid_member", Raid, "via_raid.c", 0, &[&[0x55, 0xaa]], &[tail(1)], check::via).least(64 * KIB),
    row("silicon_medley_raid_member", Raid, "silicon_raid.c", 0x60,
        &[&[0x00, 0x00, 0x00, 0x2f]], &[tail(1)], check::silicon).least(64 * KIB),
    row("nvidia_raid_member", Raid, "nvidia_raid.c", 0, &[b"NVIDIA"], &[tail(2)], check::nvidia),
    row("promise_fasttrack_raid_member", Raid, "promise_raid.c", 0, &[b"Promise Technology, Inc."],
        &[tail(63), tail(255), tail(256), tail(16), tail(399), tail(591), tail(675), tail(735), tail(911),
          tail(974), tail(991), tail(951), tail(3087)], check::none),
    row("hpt45x_raid_member", Raid, "highpoint_raid.c", 0,
        &[&[0xf3, 0x16, 0x78, 0x5a], &[0xfd, 0x16, 0x78, 0x5a]], &[tail(11)], check::none),
    row("hpt37x_raid_member", Raid, "highpoint_raid.c", 32,
        &[&[0xf0, 0x16, 0x78, 0x5a], &[0xfd, 0x16, 0x78, 0x5a]], &[at(4608)], check::none),
    row("adaptec_raid_member", Raid, "adaptec_raid.c", 0, &[&[0x37, 0xfc, 0x4d, 0x1e]], &[tail(1)], check::none),
    row("jmicron_raid_member", Raid, "jmicron_raid.c", 0, &[b"JM"], &[tail(1)], check::jmicron).least(64 * KIB),
    row("bcache", Container, "bcache.c (bcache and bcachefs)", 24,
        &[&[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81],
          &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef]],
        &[at(4 * KIB)], check::bcache),
    row("ceph_bluestore", Container, "bluestore.c", 0, &[b"bluestore block device"], &[at(0)], check::none),
    row("drbd", Raid, "drbd.c", 60,
        &[&[0x83, 0x74, 0x02, 0x6b], &[0x83, 0x74, 0x02, 0x6c], &[0x83, 0x74, 0x02, 0x6d]],
        &[end(1, 4 * KIB)], check::drbd),
    row("drbdmanage_control_volume", Container, "drbdmanage.c", 0, &[b"$DRBDmgr=q"], &[at(0)], check::drbdmanage),
    row("drbdproxy_datalog", Container, "drbdproxy_datalog.c", 0, &[b"DRBDdlh*"], &[at(0)], check::drbdproxy),
    row("LVM2_member", Raid, "lvm.c", 24, &[b"LVM2 001"],
        &[at(512), at(0), at(1024), at(1536)], check::lvm2),
    row("LVM1_member", Raid, "lvm.c", 0, &[b"HM"], &[at(0)], check::lvm1),
    row("DM_snapshot_cow", Container, "lvm.c", 0, &[b"SnAp"], &[at(0)], check::none),
    row("DM_verity_hash", Crypto, "lvm.c", 0, &[b"verity\0\0"], &[at(0)], check::verity),
    row("DM_integrity", Crypto, "lvm.c", 0, &[b"integrt\0"], &[at(0)], check::integrity),
    row("crypto_LUKS", Crypto, "luks.c", 0, &[b"LUKS\xba\xbe"], &[at(0)], check::luks),
    row("crypto_LUKS", Crypto, "luks.c (second header of LUKS2)", 0, &[b"SKUL\xba\xbe"],
        &[at(0x4000).backup(), at(0x8000).backup(), at(0x1_0000).backup(), at(0x2_0000).backup(),
          at(0x4_0000).backup(), at(0x8_0000).backup(), at(0x10_0000).backup(), at(0x20_0000).backup(),
          at(0x40_0000).backup()], check::luks),
    row("VMFS_volume_member", Raid, "vmfs.c", 0, &[&[0x0d, 0xd0, 0x01, 0xc0]], &[at(MIB)], check::vmfs_volume),
    row("ubi", Raid, "ubi.c", 0, &[b"UBI#"], &[at(0)], check::ubi),
    row("vdo", Container, "vdo.c", 0, &[b"dmvdo001"], &[at(0)], check::vdo),
    row("stratis", Raid, "stratis.c", 4, &[b"!Stra0tis\x86\xff\x02^\x41rh"], &[at(512), at(512 * 9)], check::stratis),
    row("BitLocker", Crypto, "bitlocker.c", 0,
        &[b"\xeb\x52\x90-FVE-FS-", b"\xeb\x58\x90-FVE-FS-", b"\xeb\x58\x90MSWIN4.1"], &[at(0)], check::bitlocker),
    row("cs_fvault2", Crypto, "cs_fvault2.c", 88, &[b"CS"], &[at(0)], check::fvault2),
    row("ldm_member", Raid, "kernel block/partitions/ldm.h (OFF_PRIV1 to OFF_PRIV3)", 0, &[b"PRIVHEAD"],
        &[at(6 * 512), at(0), tail(1), tail(192)], check::none),
    row("scoutfs_meta", Filesystem, "scoutfs.c (2.42)", 4, &[&[0x8b, 0x42, 0x3c, 0x10]], &[at(64 * KIB)], check::scoutfs),
    row("opensvc_hb", Container, "opensvc_hb.c (2.42)", 4,
        &[&[0x3d, 0xc1, 0x3c, 0x87, 0xc0, 0x5b, 0xe3, 0xb6]], &[at(0)], check::opensvc),
    // Filesystems and swap.
    row("vfat", Filesystem, "vfat.c", 0x52, &[b"MSWIN", b"FAT32   "], &[at(0), at(6 * 512).backup()], check::vfat),
    row("vfat", Filesystem, "vfat.c", 0x36, &[b"MSDOS", b"FAT16   ", b"FAT12   ", b"FAT     "], &[at(0)], check::vfat),
    row("vfat", Filesystem, "vfat.c (no magic but the jump)", 0, &[b"\xeb", b"\xe9"], &[at(0)], check::vfat_bare),
    row("vfat", Filesystem, "vfat.c (no magic but the end of the sector)", 0x1fe, &[b"\x55\xaa"], &[at(0)], check::vfat_bare),
    row("swsuspend", Swap, "swap.c (TuxOnIce)", 0,
        &[&[0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c]], &[at(0)], check::swap),
    row("swsuspend", Swap, "swap.c", 0, &[b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"], SWAP_PLACES, check::swap),
    row("swap", Swap, "swap.c", 0, &[b"SWAPSPACE2"], SWAP_PLACES, check::swap),
    row("swap", Swap, "swap.c (version 0)", 0, &[b"SWAP-SPACE"], SWAP_PLACES, check::none),
    row("xfs", Filesystem, "xfs.c", 0, &[b"XFSB"], &[at(0)], check::xfs),
    row("xfs_external_log", Container, "xfs.c", 0, &[&[0xfe, 0xed, 0xba, 0xbe]],
        &[at(0).times(512, 512)], check::xfs_log).least(10 * MIB),
    row("exfs", Filesystem, "exfs.c", 0, &[b"EXFS"], &[at(0)], check::xfs),
    row("ext2", Filesystem, "ext.c (ext2, ext3, ext4, jbd)", 0x38, &[&[0x53, 0xef]], &[at(1024)], check::ext),
    row("reiserfs", Filesystem, "reiserfs.c", 0x34, &[b"ReIsErFs", b"ReIsEr2Fs", b"ReIsEr3Fs"],
        &[at(8 * KIB), at(64 * KIB)], check::reiserfs),
    row("reiserfs", Filesystem, "reiserfs.c (oldest)", 20, &[b"ReIsErFs"], &[at(8 * KIB)], check::none),
    row("reiser4", Filesystem, "reiserfs.c", 0, &[b"ReIsEr4"], &[at(64 * KIB)], check::reiser4),
    row("jfs", Filesystem, "jfs.c", 0, &[b"JFS1"], &[at(32 * KIB)], check::jfs),
    row("udf", Filesystem, "udf.c", 1, &[b"NSR02", b"NSR03"], &[at(32 * KIB).times(16, 2048)], check::udf),
    row("iso9660", Filesystem, "iso9660.c", 1, &[b"CD001"], &[at(32 * KIB)], check::iso9660),
    row("iso9660", Filesystem, "iso9660.c (High Sierra)", 9, &[b"CDROM"], &[at(32 * KIB)], check::high_sierra),
    row("zfs_member", Raid, "zfs vdev_impl.h (pairs of the four labels)", 0,
        &[b"\x01\x01\0\0\0\0\0\0\0\0\0\x01", b"\x01\0\0\0\0\0\0\0\0\0\0\x01"],
        &[at(16 * KIB), at(272 * KIB).backup(), end(256 * KIB, 496 * KIB).backup(),
          end(256 * KIB, 240 * KIB).backup()], check::zfs_pairs).least(64 * MIB),
    row("zfs_member", Raid, "zfs.c (uberblocks of the four labels)", 0,
        &[b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c"],
        &[at(128 * KIB).times(128, KIB).backup(), at(384 * KIB).times(128, KIB).backup(),
          end(256 * KIB, 384 * KIB).times(128, KIB).backup(),
          end(256 * KIB, 128 * KIB).times(128, KIB).backup()], check::none).least(64 * MIB),
    row("hfsplus", Filesystem, "hfs.c", 0, &[b"H+", b"HX"], &[at(KIB)], check::hfsplus),
    row("hfs", Filesystem, "hfs.c (HFS, and HFS+ within it)", 0, &[b"BD"], &[at(KIB)], check::hfs),
    row("ufs", Filesystem, "ufs.c", 0x55c, UFS_MAGICS, &[at(0), at(8 * KIB), at(64 * KIB), at(256 * KIB)], check::ufs),
    row("hpfs", Filesystem, "hpfs.c", 0, &[&[0x49, 0xe8, 0x95, 0xf9]], &[at(8 * KIB)], check::hpfs),
    row("sysv", Filesystem, "sysv.c", 504, &[&[0x20, 0x7e, 0x18, 0xfd], &[0xfd, 0x18, 0x7e, 0x20]],
        &[at(512), at(9 * KIB + 512), at(15 * KIB + 512), at(18 * KIB + 512)], check::sysv),
    row("xenix", Filesystem, "sysv.c", 0x400, &[&[0x2b, 0x55, 0x44], &[0x44, 0x55, 0x2b]], &[at(KIB)], check::none),
    row("xenix", Filesystem, "kernel fs/sysv (1016 bytes into the superblock)", 1016,
        &[&[0x44, 0x55, 0x2b, 0x00], &[0x00, 0x2b, 0x55, 0x44]], &[at(KIB)], check::none),
    row("ntfs", Filesystem, "ntfs.c; backup boot sector: ntfs-3g layout.h", 3, &[b"NTFS    "], &[at(0), tail(1).backup()], check::ntfs),
    row("ReFS", Filesystem, "refs.c", 0, &[b"\0\0\0ReFS\0"], &[at(0)], check::none),
    row("cramfs", Filesystem, "cramfs.c", 0, &[&[0x45, 0x3d, 0xcd, 0x28], &[0x28, 0xcd, 0x3d, 0x45]],
        &[at(0), at(512)], check::cramfs),
    row("romfs", Filesystem, "romfs.c", 0, &[b"-rom1fs-"], &[at(0)], check::romfs),
    row("minix", Filesystem, "minix.c (versions 1 and 2)", 0x10,
        &[b"\x7f\x13", b"\x8f\x13", b"\x13\x7f", b"\x13\x8f", b"\x68\x24", b"\x78\x24", b"\x24\x68", b"\x24\x78"],
        &[at(KIB)], check::minix),
    row("minix", Filesystem, "minix.c (version 3)", 0x18, &[b"\x5a\x4d", b"\x4d\x5a"], &[at(KIB)], check::minix3),
    row("gfs2", Filesystem, "gfs.c (GFS and GFS2)", 0, &[&[0x01, 0x16, 0x19, 0x70]], &[at(64 * KIB)], check::gfs),
    row("ocfs", Filesystem, "ocfs.c; the kernel's ocfs 1.2 has it behind the version", 0, &[b"OracleCFS"], &[at(8 * KIB), at(8 * KIB + 8)], check::none),
    row("ocfs2", Filesystem, "ocfs.c", 0, &[b"OCFSV2"], &[at(KIB), at(2 * KIB), at(4 * KIB), at(8 * KIB)], check::ocfs2),
    row("oracleasm", Filesystem, "ocfs.c", 32, &[b"ORCLDISK"], &[at(0)], check::oracleasm),
    row("vxfs", Filesystem, "vxfs.c", 0, &[&[0xf5, 0xfc, 0x01, 0xa5]], &[at(KIB)], check::none),
    row("vxfs", Filesystem, "vxfs.c (HP-UX)", 0, &[&[0xa5, 0x01, 0xfc, 0xf5]], &[at(8 * KIB)], check::none),
    row("squashfs", Filesystem, "squashfs.c (4 and 3)", 0, &[b"hsqs", b"sqsh"], &[at(0)], check::squashfs),
    row("nss", Filesystem, "netware.c", 0, &[b"SPB5"], &[at(4 * KIB)], check::nss),
    row("btrfs", Filesystem, "btrfs.c", 0x40, &[b"_BHRfS_M"],
        &[at(64 * KIB), at(64 * MIB).backup(), at(256 << 30).backup()], check::btrfs),
    row("ubifs", Filesystem, "ubifs.c", 0, &[&[0x31, 0x18, 0x10, 0x06]], &[at(0)], check::ubifs),
    row("bfs", Filesystem, "bfs.c", 0, &[&[0xce, 0xfa, 0xad, 0x1b]], &[at(0)], check::none),
    row("VMFS", Filesystem, "vmfs.c", 0, &[&[0x5e, 0xf1, 0xab, 0x2f]], &[at(2 * MIB)], check::vmfs),
    row("befs", Filesystem, "befs.c", 32, &[b"BFS1", b"1SFB"], &[at(0), at(512)], check::befs),
    row("nilfs2", Filesystem, "nilfs.c", 6, &[&[0x34, 0x34]], &[at(KIB), tail(8).backup(), end(4 * KIB, 4 * KIB).backup()],
        check::nilfs2).least(64 * KIB),
    row("exfat", Filesystem, "exfat.c; backup: exFAT specification 3.1", 3, &[b"EXFAT   "], &[at(0), at(12 * 512).backup()], check::exfat),
    row("f2fs", Filesystem, "f2fs.c; second copy: kernel f2fs_fs.h", 0, &[&[0x10, 0x20, 0xf5, 0xf2]],
        &[at(KIB), at(5 * KIB).backup()], check::f2fs),
    row("mpool", Filesystem, "mpool.c", 0, &[b"mpoolDev"], &[at(0)], check::mpool),
    row("apfs", Filesystem, "apfs.c", 32, &[b"NXSB"], &[at(0)], check::apfs),
    row("zonefs", Filesystem, "zonefs.c", 0, &[b"SFOZ"], &[at(0)], check::zonefs),
    row("erofs", Filesystem, "erofs.c", 0, &[&[0xe2, 0xe1, 0xf5, 0xe0]], &[at(KIB)], check::erofs),
];
