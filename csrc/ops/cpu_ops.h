// The CPU loops of one SIMD level: ops/*.cpp are compiled once for each.
#pragma once
#include "../kernels.h"
#include "../lanes/loops.h"
#include "chunks.h"

DK_NAMESPACE_BEGIN

bool kac_noise_cpu(const KacNoiseArgs&, int64_t begin, int64_t end);
bool kac_velocity_cpu(const KacVelocityArgs&, int64_t begin, int64_t end);
bool kac_velocity_covers_cpu(const KacVelocityArgs&, int64_t begin, int64_t end);
bool kac_pair_cpu(const KacPairArgs&, int64_t begin, int64_t end);
bool guided_velocity_cpu(const GuidedVelocityArgs&, int64_t begin, int64_t end);
bool guided_step_cpu(const GuidedStepArgs&, int64_t begin, int64_t end);
bool endpoint_loss_cpu(const EndpointLossArgs&, int64_t begin, int64_t end);

extern const CpuKernels kKernels;

DK_NAMESPACE_END
