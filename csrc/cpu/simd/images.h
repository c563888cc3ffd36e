// Images that taps look up with offsets of their own. Included by kernels_impl.h inside its
// namespace; see there.

template <typename T>
inline T mask_of(const SampledImage<T>& image, int64_t k, int64_t p) {
  return image.mask == nullptr ? T(1) : image.mask[k * image.mask_plane + p];
}

template <typename T>
void sample_image(const SampledImage<T>& sampled, const T* cells, T* to) {
  const SampledImage<T> image = sampled;
  for (int64_t k = 0; k < image.taps; ++k) {
    for (int64_t p = 0; p < image.pixels; ++p, to += kChunk) {
      if (image.plan.cell[k * kStrip + p] < 0) {
        std::memset(to, 0, kChunk * sizeof(T));
        continue;
      }
      Look<T> look(image.plan, image.bordered_width, k, p);
      if (image.mask != nullptr) {
        for (int q = 0; q < 4; ++q) look.value[q] *= mask_of(image, k, p);
      }
      for (int64_t c = 0; c < kChunk; c += kLanes<T>) {
        Vec<T> sum = look.value[0] * load(cells + look.cell(0) + c);
        for (int q = 1; q < 4; ++q) sum += look.value[q] * load(cells + look.cell(q) + c);
        store(to + c, sum);
      }
    }
  }
}

template <typename T>
void scatter_image(const SampledImage<T>& sampled, const T* grad, T* cells) {
  const SampledImage<T> image = sampled;
  for (int64_t k = 0; k < image.taps; ++k) {
    for (int64_t p = 0; p < image.pixels; ++p, grad += kChunk) {
      if (image.plan.cell[k * kStrip + p] < 0) continue;
      const Look<T> look(image.plan, image.bordered_width, k, p);
      const Vec<T> mask = broadcast(mask_of(image, k, p));
      for (int64_t c = 0; c < kChunk; c += kLanes<T>) {
        const Vec<T> arriving = mask * load(grad + c);
        for (int q = 0; q < 4; ++q) {
          T* place = cells + look.cell(q) + c;
          store(place, load(place) + look.value[q] * arriving);
        }
      }
    }
  }
}

template <typename T>
void image_gradients(const SampledImage<T>& sampled, const T* cells, const T* grad,
                     const ImageGradients<T>& gradients) {
  const SampledImage<T> image = sampled;
  const ImageGradients<T> to = gradients;
  for (int64_t k = 0; k < image.taps; ++k) {
    for (int64_t p = 0; p < image.pixels; ++p, grad += kChunk) {
      if (image.plan.cell[k * kStrip + p] < 0) continue;
      const Look<T> look(image.plan, image.bordered_width, k, p);
      CoordinateSlopes<T> slopes;
      const Vec<T> below = fraction_y(image.plan, k, p), right = fraction_x(image.plan, k, p);
      Vec<T> values{};
      for (int64_t c = 0; c < kChunk; c += kLanes<T>) {
        Vec<T> cell[4];
        for (int q = 0; q < 4; ++q) cell[q] = load(cells + look.cell(q) + c);
        const Vec<T> arriving = load(grad + c);
        const Between<T> between(cell, below, right);
        slopes.add(between, arriving);
        values += arriving * between.value;
      }
      T sums[4] = {};
      add_sums<T>(slopes.y, slopes.x, values, Vec<T>{}, sums);
      if (to.offset != nullptr) {
        const T mask = mask_of(image, k, p);
        to.offset[2 * k * kStrip + p] += mask * sums[0];
        to.offset[(2 * k + 1) * kStrip + p] += mask * sums[1];
      }
      if (to.mask != nullptr) to.mask[k * kStrip + p] += sums[2];
    }
  }
}
