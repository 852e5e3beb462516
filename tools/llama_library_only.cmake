# Passed to llama-cpp-python's build by tools/environment.py. We call libllama and nothing else, so
# llama.cpp's "common" library (chat templates, argument parsing, HTTP client) is left out: with
# LLAVA_BUILD=OFF that is 83 build steps in place of 193.
set(LLAMA_BUILD_COMMON OFF)
