// The table of one instruction set: this file and the kernels are compiled once per instruction set.
#include "kernels.h"

namespace x2sam::X2SAM_ISA {

bool attention(const AttentionArgs&, const Threads&);
bool deformable(const DeformableArgs&, const Threads&);
bool deformable_grad(const DeformableGradArgs&, const Threads&);
bool mask_fusion(const MaskFusionArgs&, const Threads&);
bool attention_mask(const AttentionMaskArgs&, const Threads&);

#define X2SAM_NAME_(isa) #isa
#define X2SAM_NAME(isa) X2SAM_NAME_(isa)

extern const Kernels table;
const Kernels table = {X2SAM_NAME(X2SAM_ISA), attention, deformable, deformable_grad, mask_fusion, attention_mask};

}  // namespace x2sam::X2SAM_ISA
