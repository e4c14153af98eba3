# What the CUDA kernels need besides a CUDA compiler: sets `missing` to the first thing that is not there, or to "".
set(missing "")
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.5)
  set(missing "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.5; put a newer one on PATH")
elseif(NOT EXISTS "${X2SAM_CUTLASS_INCLUDE}/cute/tensor.hpp")
  set(missing "no CUTLASS headers (found: '${X2SAM_CUTLASS_INCLUDE}'); pip install nvidia-cutlass")
endif()
