// The edit kernel in C++ with vector extensions: what this core can do. Same recurrence, costs and layout as
// kernels/cpu/edit.py: sixteen neighbouring windows in lanes, four text rows in registers.
#include <cstdint>

typedef int32_t vec __attribute__((vector_size(64)));
typedef int32_t loose __attribute__((vector_size(64), aligned(4)));

static inline vec load(const int32_t *p) { return *(const loose *)p; }
static inline vec least(vec a, vec b) { return a < b ? a : b; }

// costs: [U, width], rows wrapped, 2 gamma taken off; inverse: [k], k a multiple of 4; row: [16 (k + 1)], aligned;
// out: [n], n a multiple of 16: E[k, k] of every window.
extern "C" void edit_all(const int32_t *costs, int64_t width, int64_t n, const int64_t *inverse, int64_t k,
                         int32_t *row, int32_t *out) {
    vec *state = (vec *)row;
    const vec zero = {};
    for (int64_t tau = 0; tau < n; tau += 16) {
        for (int64_t j = 0; j <= k; j++) state[j] = zero;
        for (int64_t i = 0; i < k; i += 4) {
            const int32_t *c0 = costs + inverse[i] * width, *c1 = costs + inverse[i + 1] * width;
            const int32_t *c2 = costs + inverse[i + 2] * width, *c3 = costs + inverse[i + 3] * width;
            vec diagonal = state[0], left0 = zero, left1 = zero, left2 = zero, left3 = zero;
            state[0] = zero;
            int64_t p = tau;
            for (int64_t j = 1; j <= k;) {
                int64_t run = k - j + 1 < n - p ? k - j + 1 : n - p;
                for (int64_t s = 0; s < run; s++) {
                    vec up = state[j + s];
                    vec new0 = least(least(diagonal + load(c0 + p + s), left0), up);
                    vec new1 = least(least(left0 + load(c1 + p + s), left1), new0);
                    vec new2 = least(least(left1 + load(c2 + p + s), left2), new1);
                    vec new3 = least(least(left2 + load(c3 + p + s), left3), new2);
                    state[j + s] = new3;
                    diagonal = up;
                    left0 = new0, left1 = new1, left2 = new2, left3 = new3;
                }
                j += run;
                p = 0;
            }
        }
        for (int lane = 0; lane < 16; lane++) out[tau + lane] = state[k][lane];
    }
}
