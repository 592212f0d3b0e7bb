//! Disks that hold somebody's data, one case each.

use std::fs;
use std::path::Path;

use crate::disk::run_tool;
use crate::image::{poke, sparse};
use crate::{LoopDisk, craft};

/// Size of the images: above what mkfs.xfs and mkfs.btrfs ask for, and large enough for the proof of
/// blankness to take samples.
pub const SIZE: u64 = 320 << 20;

/// A disk that must be refused.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Name of the case.
    pub name: &'static str,
    /// A reason for the refusal must hold one of these.
    pub named: &'static [&'static str],
    /// What `blkid -p` calls it; empty where blkid is not to be asked.
    pub blkid: &'static str,
    /// Tools that make it.
    pub tools: &'static [&'static str],
    /// Makes it on a sparse image of [`SIZE`] bytes.
    pub make: fn(&Path),
}

const fn case(
    name: &'static str,
    named: &'static [&'static str],
    blkid: &'static str,
    tools: &'static [&'static str],
    make: fn(&Path),
) -> Case {
    Case {
        name,
        named,
        blkid,
        tools,
        make,
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a mkfs on the image, with the image as its last argument.
fn make(image: &Path, tool: &str, args: &[&str]) {
    let mut all = args.to_vec();
    all.push(text(image));
    run_tool(tool, &all);
}

fn luks(image: &Path, kind: &str) {
    let key = image.with_extension("key");
    fs::write(&key, "secret").unwrap();
    run_tool(
        "cryptsetup",
        &[
            "luksFormat",
            "--batch-mode",
            "--type",
            kind,
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
            text(image),
            text(&key),
        ],
    );
}

fn gpt(image: &Path, partitions: bool) {
    let image = text(image);
    if partitions {
        run_tool(
            "sgdisk",
            &["-n", "1:2048:+64M", "-t", "1:8300", "-c", "1:data", image],
        );
    } else {
        run_tool("sgdisk", &["-o", image]);
    }
}

fn dos(image: &Path, script: &str) {
    let file = image.with_extension("sfdisk");
    fs::write(&file, script).unwrap();
    let shell = format!("sfdisk --quiet {} < {}", text(image), text(&file));
    run_tool("sh", &["-c", &shell]);
}

/// A folder with a file, for image formats that pack one.
fn folder(image: &Path) -> String {
    let dir = image.with_extension("dir");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("file"), vec![b'x'; 100_000]).unwrap();
    text(&dir).to_owned()
}

fn packed(image: &Path, tool: &str, args: &[&str]) {
    fs::remove_file(image).unwrap();
    run_tool(tool, args);
    let file = fs::File::options().write(true).open(image).unwrap();
    file.set_len(SIZE).unwrap();
}

fn on_loop(image: &Path, tool: &str, args: &[&str]) {
    let disk = LoopDisk::attach(image);
    make(disk.node(), tool, args);
    disk.sync();
    disk.detach();
}

/// Every kind of filesystem and member that Debian ships tools for, and those made by hand.
pub const CASES: &[Case] = &[
    case("ext2", &["ext2"], "ext2", &["mkfs.ext2"], |i| {
        make(i, "mkfs.ext2", &["-qF"]);
    }),
    case("ext3", &["ext3"], "ext3", &["mkfs.ext3"], |i| {
        make(i, "mkfs.ext3", &["-qF"]);
    }),
    case("ext4", &["ext4"], "ext4", &["mkfs.ext4"], |i| {
        make(i, "mkfs.ext4", &["-qF"]);
    }),
    case("xfs", &["xfs"], "xfs", &["mkfs.xfs"], |i| {
        make(i, "mkfs.xfs", &["-qf"]);
    }),
    case("btrfs", &["btrfs"], "btrfs", &["mkfs.btrfs"], |i| {
        make(i, "mkfs.btrfs", &["-qf"]);
    }),
    case("f2fs", &["f2fs"], "f2fs", &["mkfs.f2fs"], |i| {
        make(i, "mkfs.f2fs", &["-qf"]);
    }),
    case("vfat", &["vfat"], "vfat", &["mkfs.vfat"], |i| {
        make(i, "mkfs.vfat", &[]);
    }),
    case("exfat", &["exfat"], "exfat", &["mkfs.exfat"], |i| {
        make(i, "mkfs.exfat", &[]);
    }),
    case("ntfs", &["ntfs"], "ntfs", &["mkfs.ntfs"], |i| {
        make(i, "mkfs.ntfs", &["-QFq"]);
    }),
    case("jfs", &["jfs"], "jfs", &["mkfs.jfs"], |i| {
        make(i, "mkfs.jfs", &["-q"]);
    }),
    case("nilfs2", &["nilfs2"], "nilfs2", &["mkfs.nilfs2"], |i| {
        make(i, "mkfs.nilfs2", &["-q"]);
    }),
    case(
        "reiserfs",
        &["reiserfs"],
        "reiserfs",
        &["mkfs.reiserfs"],
        |i| {
            make(i, "mkfs.reiserfs", &["-qff"]);
        },
    ),
    case("udf", &["udf"], "udf", &["mkudffs"], |i| {
        make(i, "mkudffs", &["--blocksize=512"]);
    }),
    case("gfs2", &["gfs2"], "gfs2", &["mkfs.gfs2"], |i| {
        on_loop(
            i,
            "mkfs.gfs2",
            &["-qO", "-p", "lock_nolock", "-j", "1", "-J", "8"],
        );
    }),
    case("ocfs2", &["ocfs2"], "ocfs2", &["mkfs.ocfs2"], |i| {
        on_loop(i, "mkfs.ocfs2", &["-qFx", "-M", "local"]);
    }),
    case("swap", &["swap"], "swap", &["mkswap"], |i| {
        make(i, "mkswap", &["-q"]);
    }),
    case(
        "LUKS 1",
        &["crypto_LUKS", "LUKS"],
        "crypto_LUKS",
        &["cryptsetup"],
        |i| luks(i, "luks1"),
    ),
    case(
        "LUKS 2",
        &["crypto_LUKS", "LUKS"],
        "crypto_LUKS",
        &["cryptsetup"],
        |i| luks(i, "luks2"),
    ),
    case(
        "LVM physical volume",
        &["LVM2_member"],
        "LVM2_member",
        &["pvcreate"],
        |i| {
            on_loop(
                i,
                "pvcreate",
                &["-qq", "-y", "--config", "devices{use_devicesfile=0}"],
            );
        },
    ),
    case(
        "md 0.90 member",
        &["linux_raid_member"],
        "linux_raid_member",
        &[],
        |i| {
            craft::md_0_90(i, SIZE);
        },
    ),
    case(
        "md 1.0 member",
        &["linux_raid_member"],
        "linux_raid_member",
        &[],
        |i| {
            craft::md_1(i, SIZE, 0);
        },
    ),
    case(
        "md 1.1 member",
        &["linux_raid_member"],
        "linux_raid_member",
        &[],
        |i| {
            craft::md_1(i, SIZE, 1);
        },
    ),
    case(
        "md 1.2 member",
        &["linux_raid_member"],
        "linux_raid_member",
        &[],
        |i| {
            craft::md_1(i, SIZE, 2);
        },
    ),
    case(
        "bcache backing device",
        &["bcache"],
        "bcache",
        &["make-bcache"],
        |i| {
            on_loop(i, "make-bcache", &["-B"]);
        },
    ),
    case(
        "bcache cache device",
        &["bcache"],
        "bcache",
        &["make-bcache"],
        |i| {
            on_loop(i, "make-bcache", &["-C"]);
        },
    ),
    case("ZFS labels", &["zfs_member"], "zfs_member", &[], |i| {
        craft::zfs(i, SIZE);
    }),
    case(
        "Ceph BlueStore",
        &["ceph_bluestore"],
        "ceph_bluestore",
        &[],
        craft::bluestore,
    ),
    case(
        "BitLocker",
        &["BitLocker"],
        "BitLocker",
        &[],
        craft::bitlocker,
    ),
    case("iso9660", &["iso9660"], "iso9660", &["xorriso"], |i| {
        let dir = folder(i);
        packed(
            i,
            "xorriso",
            &["-as", "mkisofs", "-quiet", "-o", text(i), &dir],
        );
    }),
    case(
        "squashfs",
        &["squashfs"],
        "squashfs",
        &["mksquashfs"],
        |i| {
            let dir = folder(i);
            packed(
                i,
                "mksquashfs",
                &[&dir, text(i), "-quiet", "-no-progress", "-processors", "1"],
            );
        },
    ),
    case("erofs", &["erofs"], "erofs", &["mkfs.erofs"], |i| {
        let dir = folder(i);
        packed(i, "mkfs.erofs", &["--quiet", text(i), &dir]);
    }),
    case(
        "GPT with a partition",
        &["gpt", "GPT"],
        "gpt",
        &["sgdisk"],
        |i| gpt(i, true),
    ),
    case(
        "GPT without partitions",
        &["gpt", "GPT"],
        "gpt",
        &["sgdisk"],
        |i| gpt(i, false),
    ),
    case("backup GPT only", &["gpt", "GPT"], "", &["sgdisk"], |i| {
        gpt(i, true);
        poke(i, 0, &[0; 34 * 512]);
    }),
    case("primary GPT only", &["gpt", "GPT"], "", &["sgdisk"], |i| {
        gpt(i, true);
        poke(i, SIZE - 33 * 512, &[0; 33 * 512]);
    }),
    case(
        "GPT without its protective MBR",
        &["gpt", "GPT"],
        "",
        &["sgdisk"],
        |i| {
            gpt(i, true);
            poke(i, 0, &[0; 512]);
        },
    ),
    case(
        "GPT with an ext4 partition",
        &["gpt", "GPT"],
        "gpt",
        &["sgdisk", "mkfs.ext4"],
        |i| {
            gpt(i, true);
            run_tool(
                "mkfs.ext4",
                &["-qF", "-E", "offset=1048576", text(i), "64M"],
            );
        },
    ),
    case("DOS table", &["dos", "DOS"], "dos", &["sfdisk"], |i| {
        dos(i, "label: dos\nstart=2048, size=65536, type=83\n");
    }),
    case(
        "DOS table with logical partitions",
        &["dos", "DOS"],
        "dos",
        &["sfdisk"],
        |i| {
            dos(
                i,
                "label: dos\nstart=2048, size=262144, type=5\nstart=4096, size=8192, type=83\n",
            );
        },
    ),
    case(
        "empty DOS table",
        &["dos", "DOS"],
        "dos",
        &["sfdisk"],
        |i| dos(i, "label: dos\n"),
    ),
    case("sun table", &["sun"], "sun", &["sfdisk"], |i| {
        dos(i, "label: sun\n");
    }),
    case("sgi table", &["sgi"], "sgi", &["sfdisk"], |i| {
        dos(i, "label: sgi\n");
    }),
    case("mac table", &["mac"], "mac", &["parted"], |i| {
        run_tool("parted", &["-s", text(i), "mklabel", "mac"]);
    }),
    // libblkid looks for it one sector further on than parted writes it.
    case("bsd table", &["bsd", "byte"], "", &["parted"], |i| {
        run_tool("parted", &["-s", text(i), "mklabel", "bsd"]);
    }),
    case(
        "ISO image at the start and backup GPT at the end",
        &["iso9660"],
        "",
        &["xorriso", "sgdisk"],
        |i| {
            gpt(i, true);
            let end = crate::image::peek(i, SIZE - 33 * 512, 33 * 512);
            let dir = folder(i);
            packed(
                i,
                "xorriso",
                &["-as", "mkisofs", "-quiet", "-o", text(i), &dir],
            );
            poke(i, SIZE - 33 * 512, &end);
        },
    ),
    case(
        "ext4 with its first MiB zeroed",
        &["byte"],
        "",
        &["mkfs.ext4"],
        |i| {
            make(i, "mkfs.ext4", &["-qF"]);
            poke(i, 0, &vec![0; 1 << 20]);
        },
    ),
    case(
        "xfs with its first MiB zeroed",
        &["byte"],
        "",
        &["mkfs.xfs"],
        |i| {
            make(i, "mkfs.xfs", &["-qf"]);
            poke(i, 0, &vec![0; 1 << 20]);
        },
    ),
    case(
        "xfs with its first superblock zeroed",
        &["byte"],
        "",
        &["mkfs.xfs"],
        |i| {
            make(i, "mkfs.xfs", &["-qf"]);
            poke(i, 0, &[0; 512]);
        },
    ),
];

/// Makes the image of a case.
pub fn build(case: &Case, image: &Path) {
    sparse(image, SIZE);
    (case.make)(image);
}
