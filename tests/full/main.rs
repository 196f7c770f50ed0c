//! What takes minutes: learning curves with a known answer. `make test-full` runs it, `make test` does not.

mod explain;
mod planted;
