# Passed to llama-cpp-python's build by tools/environment.py. We call libllama and nothing else, so
# llama.cpp's "common" library (chat templates, argument parsing, HTTP client) is left out: with
# LLAVA_BUILD=OFF that is 83 build steps in place of 193.
set(LLAMA_BUILD_COMMON OFF)

# No AMX, whatever the compiler: to GCC 12 _tile_loadconfig reads 8 of its 64 bytes, so it drops the stores of
# the others in ggml-cpu/amx/mmq.cpp, and the first product ends in SIGILL on Xeons since Sapphire Rapids
# (docs/decisions/0007).
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-mno-amx-tile HAS_AMX_FLAGS)
  if(HAS_AMX_FLAGS)
    add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-mno-amx-tile;-mno-amx-int8;-mno-amx-bf16>")
  endif()
endif()
