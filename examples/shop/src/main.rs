//! Runs one service of the shop.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match picket_shop::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("picket-shop: {error}");
            ExitCode::from(2)
        }
    }
}
