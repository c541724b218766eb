# Adds the kernels of this folder to ggml's CPU backend, in every variant that is built. The build script names this
# file in CMAKE_PROJECT_ggml_INCLUDE, so cmake reads it when ggml's own project begins; ggml's targets exist at its end.
set(FEW_COLUMNS_DIR ${CMAKE_CURRENT_LIST_DIR})

function(few_columns_add target)
    get_target_property(source_dir ${target} SOURCE_DIR)
    target_sources(${target} PRIVATE
        ${FEW_COLUMNS_DIR}/blocks_256.cpp
        ${FEW_COLUMNS_DIR}/blocks_32.cpp
        ${FEW_COLUMNS_DIR}/dispatch.cpp
        ${FEW_COLUMNS_DIR}/few_columns.cpp
        ${FEW_COLUMNS_DIR}/halves.cpp
        ${FEW_COLUMNS_DIR}/interleaved_arm.cpp
        ${FEW_COLUMNS_DIR}/interleaved_x86.cpp
        ${FEW_COLUMNS_DIR}/weights.cpp)
    set_source_files_properties(
        ${source_dir}/ggml-cpu/traits.cpp
        TARGET_DIRECTORY ${target}
        PROPERTIES COMPILE_DEFINITIONS
        "ggml_cpu_extra_compute_forward=few_columns_next_compute_forward;ggml_cpu_extra_work_size=few_columns_next_work_size")
endfunction()

function(few_columns_add_to_all)
    get_property(targets DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/src PROPERTY BUILDSYSTEM_TARGETS)
    set(found FALSE)
    foreach(target ${targets})
        if(target MATCHES "^ggml-cpu" AND NOT target MATCHES "-feats$")
            few_columns_add(${target})
            set(found TRUE)
        endif()
    endforeach()
    if(NOT found)
        message(FATAL_ERROR "kernels.cmake: this ggml has no target ggml-cpu; build with --no-kernels")
    endif()
endfunction()

cmake_language(DEFER CALL few_columns_add_to_all)
