#include "cpu_ops.h"

#include "../network/group_norm.h"

DK_NAMESPACE_BEGIN

const CpuKernels kKernels = {
    .kac_noise = kac_noise_cpu,
    .kac_velocity = kac_velocity_cpu,
    .kac_velocity_covers = kac_velocity_covers_cpu,
    .kac_pair = kac_pair_cpu,
    .guided_velocity = guided_velocity_cpu,
    .guided_step = guided_step_cpu,
    .endpoint_loss = endpoint_loss_cpu,
    .group_norm = group_norm_cpu,
    .group_norm_grad = group_norm_grad_cpu,
};

DK_NAMESPACE_END
