// What changes from step to step, in one record on the device; mirrors `StepState` of src/backend/mod.rs. Kernels take a
// `const StepState*`, so that a recorded step can be replayed.
#pragma once
#include "common.cuh"

struct StepState {
    uint32_t step;          // optimiser step, counted from 1
    uint32_t philox_step;   // step counter of the dropout streams
    float lr;
    float bias_correction1; // 1 - beta1^step
    float bias_correction2; // 1 - beta2^step
    uint32_t batch_cursor;  // first sample of this batch in the epoch's order
    uint32_t epoch;         // which the order and the draws of samples are keyed by
};
