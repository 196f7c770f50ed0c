fn main() -> std::process::ExitCode {
    epi_engine::cli::main()
}
