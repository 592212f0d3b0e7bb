//! Superblocks made by hand, of kinds whose tools need a kernel module to make them.
