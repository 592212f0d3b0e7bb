// Builds the first process of every pod of the lab.
module disk-discovery.invalid/testbed/pause

go 1.26.0
