// What frames a recorded step: the record that its kernels read, and the loss that is read back later.
//   write_step   step = state; the state travels as a launch parameter, so the host neither copies nor waits
//   log_value    history[step.philox_step % slots] = value
// One thread does it. Deterministic.
#include "include/common.cuh"
#include "include/params.cuh"

EPI_KERNEL(write_step, 32, 1, (StepState state, StepState* step)) {
    if (threadIdx.x != 0) return;
    step->step = state.step;
    step->philox_step = state.philox_step;
    step->lr = state.lr;
    step->bias_correction1 = state.bias_correction1;
    step->bias_correction2 = state.bias_correction2;
    step->batch_cursor = state.batch_cursor;
    step->epoch = state.epoch;
}

EPI_KERNEL(log_value, 32, 1, (int slots, const StepState* step, const float* value, float* history)) {
    if (threadIdx.x == 0) history[step->philox_step % uint32_t(slots)] = value[0];
}
