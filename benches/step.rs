//! Whole steps: `cargo bench --bench step -- OPTIONS` is `epi-engine bench step OPTIONS`.

fn main() -> std::process::ExitCode {
    epi_engine::cli::bench::door("step")
}
