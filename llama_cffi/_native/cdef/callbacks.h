// Functions written in Python that C calls: one per signature; user data is an ffi.new_handle.

extern "Python" bool llama_cffi_progress(float progress, void * user_data);
