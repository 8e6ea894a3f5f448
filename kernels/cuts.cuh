// How all blocks of a grid find the ids that are kept: digit by digit from histograms of counts and weights, until few are
// left to be compared. Needs common.cuh, together.cuh and sample.cuh.

// The bin by which a measure, summed from the top, reaches what is wanted.
struct Bin {
    u32 index, count;
    // What lies above it, and itself.
    u64 measure, mass, own_mass;
    bool found, whole;
    // Of all bins.
    u64 total;
};

struct Cutter {
    const Row& row;
    Space& space;
    Together& together;
    Cut cut;
    u32 turn, cuts;

    // Histograms of the first digit and of the first turn must be empty before any block counts.
    __device__ void clear(u32 histogram) const {
        for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < BINS; i += gridDim.x * blockDim.x)
            space.masses[histogram][i] = space.counts[histogram][i] = 0;
    }

    __device__ void count(u32 histogram, u32 bin, u64 weight) const {
        atomicAdd(space.counts[histogram] + bin, 1u);
        atomicAdd(space.masses[histogram] + bin, weight);
    }

    // The first digit and the second divide places, the others keys.
    __device__ static u32 shift(u32 digit) { return digit < 7 ? 53 - 11 * (digit - 2) : 0; }

    // Whether the digits before this one are those of the cut.
    __device__ static bool agrees(u32 digit, u32 place, u64 key, const Cut& cut) {
        if (digit == 1) return place / BINS == cut.place / BINS;
        return place == cut.place && (digit == 2 || key >> shift(digit - 1) == cut.key >> shift(digit - 1));
    }

    // f(i, place, key) for ids of this block that are still in question at a digit: kept so far, and of the cut's bin.
    template <class F> __device__ void for_rest(u32 digit, const Cut& kept, F f) const {
        row.for_own([&](u32 i) {
            u32 place = Row::place(row.exponent(row.logits[i]));
            u64 key = row.key(i);
            bool rest = row.weights[i] > 0 && agrees(digit, place, key, cut);
            if (rest && (place < kept.place || place == kept.place && key >= kept.key)) f(i, place, key);
        });
    }

    // Where the measure, weights or counts, reaches `wanted`, if above this histogram are `measure` and `mass`.
    __device__ Bin find(u32 histogram, bool by_mass, u64 wanted, u64 measure, u64 mass) const {
        __shared__ Bin result;
        u32 counts[2], count = 0;
        u64 masses[2], sum = 0;
        for (u32 n = 0; n < 2; n++) {
            counts[n] = __ldcg(space.counts[histogram] + threadIdx.x * 2 + n);
            masses[n] = __ldcg(space.masses[histogram] + threadIdx.x * 2 + n);
            count += counts[n], sum += masses[n];
        }
        u32 counted = block_scan(count);
        u64 summed = block_scan(sum);
        if (threadIdx.x + 1 == blockDim.x) result.total = mass + summed, result.found = result.whole = false;
        __syncthreads();
        measure += by_mass ? summed - sum : counted - count, mass += summed - sum;
        for (u32 n = 0; n < 2; n++) {
            u64 own = by_mass ? masses[n] : counts[n];
            if (measure < wanted && wanted <= measure + own)
                result = {threadIdx.x * 2 + n, counts[n], measure, mass, masses[n], true, wanted == measure + own, result.total};
            measure += own, mass += masses[n];
        }
        __syncthreads();
        Bin bin = result;
        __syncthreads();
        return bin;
    }

    // Compares the few ids that are left at a digit with one another.
    __device__ void rank(u32 digit, const Cut& kept, bool by_mass, u64 wanted, const Bin& bin) {
        __shared__ u64 keys[LISTED], weights[LISTED];
        __shared__ Cut found;
        u32* length = space.lengths + cuts % 2;
        u64 *to_keys = space.keys[cuts % 2], *to_weights = space.weights[cuts % 2];
        for_rest(digit, kept, [&](u32 i, u32, u64 key) {
            u32 at = atomicAdd(length, 1u);
            if (at < LISTED) to_keys[at] = key, to_weights[at] = row.weights[i];
        });
        together.wait();
        u32 n = min(__ldcg(length), LISTED), own = threadIdx.x / 4;
        if (threadIdx.x < n) keys[threadIdx.x] = __ldcg(to_keys + threadIdx.x), weights[threadIdx.x] = __ldcg(to_weights + threadIdx.x);
        if (threadIdx.x == 0) found = {cut.place, 0, 0};
        __syncthreads();
        u64 key = own < n ? keys[own] : 0, mass = 0;
        u32 count = 0;
        for (u32 i = threadIdx.x % 4; own < n && i < n; i += 4)
            if (keys[i] > key) count++, mass += weights[i];
        count = lanes_fold(count, 4, [](u32 a, u32 b) { return a + b; });
        mass = lanes_fold(mass, 4, [](u64 a, u64 b) { return a + b; });
        if (own < n && threadIdx.x % 4 == 0) {
            u64 before = bin.measure + (by_mass ? mass : count), measure = by_mass ? weights[own] : 1;
            if (before < wanted && wanted <= before + measure) found = {Row::place(row.exponent(Row::logit(key))), key, bin.mass + mass + weights[own]};
        }
        __syncthreads();
        cut = found;
    }

    // Keeps the fewest of the ids that are kept so far, by key from above, whose measures reach `wanted`; all if they never do.
    __device__ void keep(bool by_mass, u64 wanted) {
        Cut kept = cut;
        Bin bin = find(3, by_mass, wanted, 0, 0);
        if (!bin.found) {
            cut.mass = bin.total;
            return;
        }
        cut = {bin.index * BINS + BINS - 1, 0, 0};
        for (u32 digit = 1; digit < 8 && !bin.whole; digit++) {
            if (bin.count <= LISTED) {
                rank(digit, kept, by_mass, wanted, bin);
                cuts++;
                return;
            }
            u32 histogram = turn++ % 3;
            clear((histogram + 1) % 3);
            for_rest(digit, kept, [&](u32 i, u32 place, u64 key) {
                count(histogram, digit == 1 ? place % BINS : BINS - 1 - (key >> shift(digit)) % BINS, row.weights[i]);
            });
            together.wait();
            bin = find(histogram, by_mass, wanted, bin.measure, bin.mass);
            if (digit == 1) cut.place -= BINS - 1 - bin.index;
            else cut.key |= (u64)(BINS - 1 - bin.index) << shift(digit);
        }
        cut.mass = bin.mass + bin.own_mass;
        cuts++;
    }
};
