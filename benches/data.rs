//! The data path: `cargo bench --bench data -- OPTIONS` is `epi-engine bench data OPTIONS`.

fn main() -> std::process::ExitCode {
    epi_engine::cli::bench::door("data")
}
