# Passed to llama-cpp-python's build by tools/environment.py. We call libllama and nothing else, so
# llama.cpp's "common" library (chat templates, argument parsing, HTTP client) is left out: with
# LLAVA_BUILD=OFF that is 83 build steps in place of 193.
set(LLAMA_BUILD_COMMON OFF)

# GCC drops the stores that set up AMX tiles in ggml-cpu/amx/mmq.cpp as dead, so the first matrix product
# ends in SIGILL on CPUs that have them (Xeon since Sapphire Rapids; seen with GCC 12, and as pull request
# 26954 of llama.cpp). Those kernels do not know IQ4_NL, in which nearly all of our weights are.
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-mno-amx-tile HAS_AMX_FLAGS)
if(HAS_AMX_FLAGS)
  add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
endif()
