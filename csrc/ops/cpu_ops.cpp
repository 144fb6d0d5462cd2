#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

const CpuKernels kKernels = {kac_noise_cpu,       kac_velocity_cpu, kac_pair_cpu,
                             guided_velocity_cpu, guided_step_cpu,  endpoint_loss_cpu};

DK_NAMESPACE_END
