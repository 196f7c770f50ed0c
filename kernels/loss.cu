// Losses on logits [B,K] with labels [B] (class numbers as floats) and weights [B].
//   probabilities = softmax(logits);    loss [1] = Σ_b w_b loss_b / Σ_b w_b
//   cross entropy   loss_b = -log p_label                     dlogits_k = w_b / Σw * dloss * (p_k - [k = label])
//   exchanged       loss_b = -Σ_k p_k log_softmax(onehot)_k = log(e + K - 1) - p_label
//                                                             dlogits_k = w_b / Σw * dloss * p_label (p_k - [k = label])
//   binary          one logit z, as [0, z] of two classes: loss_b = log(1 + exp(∓z)), finite for any z
//                                                             dlogit = w_b / Σw * dloss * (label ? -p_0 : p_1)
// FLOPs ~10 B K. Loss: one block of 256 threads, a thread walks samples; softmax and backward: one thread a sample.
// Deterministic.
#include "include/common.cuh"
#include "include/params.cuh"

// Softmax of one row; returns log Σ exp.
EPI_DEVICE float softmax_row(int classes, const float* logits, float* probabilities) {
    float top = logits[0];
    for (int k = 1; k < classes; ++k) top = fmaxf(top, logits[k]);
    float sum = 0.0f;
    for (int k = 0; k < classes; ++k) sum += expf(logits[k] - top);
    for (int k = 0; k < classes; ++k) probabilities[k] = expf(logits[k] - top) / sum;
    return top + logf(sum);
}

// Binary cross entropy of one logit; fills both probabilities.
EPI_DEVICE float binary_row(float logit, bool positive, float* probabilities) {
    probabilities[0] = 1.0f / (1.0f + expf(logit));
    probabilities[1] = 1.0f / (1.0f + expf(-logit));
    const float against = positive ? -logit : logit;
    return fmaxf(against, 0.0f) + log1pf(expf(-fabsf(against)));
}

EPI_KERNEL(softmax_rows, 256, 4, (LossParams p, const float* logits, float* probabilities)) {
    const int b = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (b < p.batch) softmax_row(p.classes, logits + size_t(b) * p.classes, probabilities + size_t(b) * p.classes);
}

EPI_KERNEL(class_loss_forward, 256, 1,
           (LossParams p, const float* logits, const float* labels, const float* weights, float* loss,
            float* probabilities)) {
    EPI_SHARED(float, scratch, WARP);
    float sum = 0.0f, weight_sum = 0.0f;
    for (int b = int(threadIdx.x); b < p.batch; b += 256) {
        const size_t row = size_t(b) * p.classes;
        const int label = int(labels[b]);
        const bool known = label >= 0 && label < p.classes; // others give a NaN loss, which stops training
        float value;
        if (p.kind == 2) {
            value = binary_row(logits[b], label == 1, probabilities + row);
        } else {
            const float log_sum = softmax_row(p.classes, logits + row, probabilities + row);
            value = known ? log_sum - logits[row + label] : 0.0f;
        }
        if (p.kind == 1 && known) value = logf(expf(1.0f) + float(p.classes - 1)) - probabilities[row + label];
        if (!known) value = nanf("");
        sum = fmaf(weights[b], value, sum);
        weight_sum += weights[b];
    }
    sum = block_sum(sum, scratch);
    weight_sum = block_sum(weight_sum, scratch);
    if (threadIdx.x == 0) loss[0] = sum / weight_sum;
}

EPI_KERNEL(class_loss_backward, 256, 1,
           (LossParams p, const float* probabilities, const float* labels, const float* weights, const float* dloss,
            float* dlogits)) {
    EPI_SHARED(float, scratch, WARP);
    float weight_sum = 0.0f;
    for (int b = int(threadIdx.x); b < p.batch; b += 256) weight_sum += weights[b];
    weight_sum = block_sum(weight_sum, scratch);
    for (int b = int(threadIdx.x); b < p.batch; b += 256) {
        const size_t row = size_t(b) * p.classes;
        const int label = int(labels[b]);
        float factor = weights[b] / weight_sum * dloss[0];
        if (p.kind == 2) {
            dlogits[b] = factor * (label == 1 ? -probabilities[row] : probabilities[row + 1]);
            continue;
        }
        if (p.kind == 1) factor *= label >= 0 && label < p.classes ? probabilities[row + label] : nanf("");
        for (int k = 0; k < p.classes; ++k)
            dlogits[row + k] = factor * (probabilities[row + k] - (k == label ? 1.0f : 0.0f));
    }
}
