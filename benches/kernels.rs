//! Single kernels: `cargo bench --bench kernels -- OPTIONS` is `epi-engine bench kernels OPTIONS`.

fn main() -> std::process::ExitCode {
    epi_engine::cli::bench::door("kernels")
}
