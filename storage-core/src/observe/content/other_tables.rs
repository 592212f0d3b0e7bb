//! Partition tables that are only named: what they hold is nobody's business here.

use super::checks as check;
use super::magics::{KIB, Row, at, row};
use crate::model::SignatureClass::PartitionTable;

/// Their magics, in libblkid's order. GPT and DOS have parsers of their own.
#[rustfmt::skip]
pub static TABLE: &[Row] = &[
    row("aix", PartitionTable, "partitions/aix.c", 0, &[&[0xc9, 0xc2, 0xd4, 0xc1]], &[at(0)], check::none),
    row("sgi", PartitionTable, "partitions/sgi.c", 0, &[&[0x0b, 0xe5, 0xa9, 0x41]], &[at(0)], check::none),
    row("sun", PartitionTable, "partitions/sun.c", 508, &[&[0xda, 0xbe]], &[at(0)], check::sun),
    row("mac", PartitionTable, "partitions/mac.c", 0, &[b"ER"], &[at(0)], check::mac),
    row("bsd", PartitionTable, "partitions/bsd.c", 0, &[&[0x57, 0x45, 0x56, 0x82]], &[at(512), at(64), at(128)], check::none),
    row("unixware", PartitionTable, "partitions/unixware.c", 4, &[&[0x0d, 0x60, 0xe5, 0xca]], &[at(29 * 512)], check::none),
    row("solaris_x86", PartitionTable, "partitions/solaris_x86.c", 12, &[&[0xee, 0xde, 0x0d, 0x60]], &[at(512)], check::none),
    row("ultrix", PartitionTable, "partitions/ultrix.c", 0, &[&[0x57, 0x29, 0x03, 0x00, 0x01, 0x00, 0x00, 0x00]],
        &[at(16 * KIB - 72)], check::none),
    row("dasd", PartitionTable, "kernel block/partitions/ibm.c (VOL1, in EBCDIC)", 4, &[&[0xe5, 0xd6, 0xd3, 0xf1]],
        &[at(KIB), at(2 * KIB), at(4 * KIB), at(8 * KIB)], check::none),
    row("dasd", PartitionTable, "kernel block/partitions/ibm.c (LNX1 and CMS1, in EBCDIC)", 0,
        &[&[0xd3, 0xd5, 0xe7, 0xf1], &[0xc3, 0xd4, 0xe2, 0xf1]],
        &[at(KIB), at(2 * KIB), at(4 * KIB), at(8 * KIB)], check::none),
    row("amiga", PartitionTable, "kernel block/partitions/amiga.c", 0, &[b"RDSK"], &[at(0).times(16, 512)], check::none),
    row("pc98", PartitionTable, "libparted labels/pc98.c", 4, &[b"IPL1"], &[at(0)], check::none),
];

/// A table without a magic, asked for only when nothing else was found.
pub static ATARI: Row = row(
    "atari",
    PartitionTable,
    "partitions/atari.c",
    0x1c6,
    &[b""],
    &[at(0)],
    check::atari,
);
