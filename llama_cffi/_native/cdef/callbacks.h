// Functions written in Python that C calls: one per signature; user data is an ffi.new_handle.

extern "Python" bool llama_cffi_progress(float progress, void * user_data);

// A sampler's ctx is an ffi.new_handle.
extern "Python" const char * llama_cffi_sampler_name(const struct llama_sampler * smpl);
extern "Python" void llama_cffi_sampler_accept(struct llama_sampler * smpl, llama_token token);
extern "Python" void llama_cffi_sampler_apply(struct llama_sampler * smpl, llama_token_data_array * cur_p);
extern "Python" void llama_cffi_sampler_reset(struct llama_sampler * smpl);
