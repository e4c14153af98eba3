"""A GPU of numpy: runs the PTX that nvcc and Triton write, a thread block at a time, and watches for hazards.

    ptx            PTX text → kernels of instructions
    arithmetic     what an instruction computes on the 32 lanes of a warp
    tensor_cores   matrix products: descriptors, swizzles, fragments
    warp           a warp: its registers, the branches its lanes took, the products it waits for
    operands       a kernel's registers, and how a warp reads and writes what an instruction names
    copies         copies into and out of shared memory
    steps          an instruction → a step that changes a warp
    block          a thread block: shared memory, barriers, the copy engine
    cluster        blocks that run together, and the order in which their warps do
    device         launches, tensor maps, the host's memory as global memory
    library        libx2sam_cuda on top of it: the host's code runs as it is, behind a runtime that has this device

Modelled as the PTX manual says: mbarriers (arrivals, bytes, phases), tiled copies (boxes, zeros outside, swizzles, any
order of arrival; outwards: groups, and what is read when), proxy fences, wgmma (descriptors, both majors, fragments,
groups), mma.sync, shuffles, votes, named barriers. Warps run in a random order, drawn from a seed. A `Hazard` is raised
for what a GPU would forgive or punish at random: memory read before a copy has arrived, or overwritten under a product
or a copy; what threads wrote, met by a product or a copy without a fence behind it; registers of a product touched
before it is waited for; arrivals too many, deadlocks, misaligned or foreign addresses, copies or products that nobody
waits for.

Not modelled: time, ptxas and what it allocates, memory order between blocks.
"""
