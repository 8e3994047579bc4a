/* SPDX-License-Identifier: Apache-2.0
 *
 * avxvnni.c - AVX2 with the 256-bit form of VNNI: processors without AVX-512, or without the wish for it.
 */
#include "kernels/avx2_body.h"

/* vpdpbusd does not saturate: any u will do. */
static inline __m256i v8_dot(__m256i acc, __m256i u, __m256i q, bool is_wide)
{
    (void)is_wide;
    return _mm256_dpbusd_avx_epi32(acc, u, q);
}

const struct kern_table kern_avxvnni = {
    .name = "avxvnni",
    .dequantise = ref_dequantise,
    .quantise = vec_quantise,
    .mul_mat = vec_mul_mat,
    .rms_norm = vec_rms_norm,
    .add_scaled = vec_add_scaled,
    .activate = vec_activate,
    .rope = vec_rope,
    .kv_store = vec_kv_store,
    .kv_seal = vec_kv_seal,
    .attend = vec_attend,
    .attend_fold = vec_attend_fold,
    .attend_last = vec_attend_last,
    .max_index = vec_max_index,
    .first_above = vec_first_above,
    .all_finite = vec_all_finite,
    .peak = vec_peak,
    .read = vec_read,
    .max_sum_exp = vec_max_sum_exp,
};
