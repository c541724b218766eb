// llama.h: the log callback, one for the whole process.

void llama_log_set(ggml_log_callback log_callback, void * user_data);
