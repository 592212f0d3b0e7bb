//! The command.

fn main() -> std::process::ExitCode {
    disk_discovery::main(std::env::args_os())
}
