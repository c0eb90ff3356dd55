/**
 * Thin lines and round dots written straight into pixels: tens of thousands a frame, in as many colours, with
 * no GPU.
 */

/**
 * @param {number} below
 * @param {number} above pixels of 32 bits
 * @param {number} a 0 to 256
 * @returns {number} the opaque mix
 */
function mix(below, above, a) {
  const rest = 256 - a
  const outer = ((Math.imul(below & 0xff00ff, rest) + Math.imul(above & 0xff00ff, a)) >>> 8) & 0xff00ff
  const inner = ((Math.imul(below & 0xff00, rest) + Math.imul(above & 0xff00, a)) >>> 8) & 0xff00
  return 0xff000000 | outer | inner
}

export class Raster {
  width = 0
  height = 0
  image = new ImageData(1, 1)
  pixels = new Uint32Array(this.image.data.buffer)

  /**
   * @param {number} width
   * @param {number} height device pixels
   * @param {number} ground the pixel that fills it
   */
  clear(width, height, ground) {
    if (width !== this.width || height !== this.height) {
      this.image = new ImageData(width, height)
      this.pixels = new Uint32Array(this.image.data.buffer)
      this.width = width
      this.height = height
    }
    this.pixels.fill(ground)
  }

  /**
   * A line one pixel wide with soft edges, cut at the borders.
   * @param {number} x0 @param {number} y0 @param {number} x1 @param {number} y1
   * @param {number} colour pixel @param {number} alpha 0 to 256
   */
  line(x0, y0, x1, y1, colour, alpha) {
    const { width, height, pixels } = this
    if (
      (x0 < 0 && x1 < 0) ||
      (y0 < 0 && y1 < 0) ||
      (x0 >= width && x1 >= width) ||
      (y0 >= height && y1 >= height)
    )
      return
    const steep = Math.abs(y1 - y0) > Math.abs(x1 - x0)
    if (steep) [x0, y0, x1, y1] = [y0, x0, y1, x1]
    if (x0 > x1) [x0, y0, x1, y1] = [x1, y1, x0, y0]
    const along = steep ? width : 1,
      across = steep ? 1 : width,
      long = steep ? height : width,
      wide = steep ? width : height
    const slope = x1 === x0 ? 0 : (y1 - y0) / (x1 - x0)
    const last = Math.min(long - 1, Math.floor(x1))
    for (let x = Math.max(0, Math.ceil(x0)); x <= last; x++) {
      const y = y0 + slope * (x - x0),
        low = Math.floor(y),
        share = (alpha * (y - low)) | 0
      const steps = steep ? x * along : x
      if (low >= 0 && low < wide)
        pixels[steps + low * across] = mix(pixels[steps + low * across], colour, alpha - share)
      if (low >= -1 && low < wide - 1)
        pixels[steps + (low + 1) * across] = mix(pixels[steps + (low + 1) * across], colour, share)
    }
  }

  /**
   * The coverage of a disc, to be stamped by `dot`.
   * @param {number} radius device pixels
   * @param {number} alpha 0 to 1
   */
  stamp(radius, alpha) {
    const reach = Math.ceil(radius),
      offsets = [],
      shares = []
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        const cover = Math.min(1, radius + 0.5 - Math.hypot(dx, dy))
        if (cover <= 0) continue
        offsets.push(dy * this.width + dx)
        shares.push(Math.round(256 * alpha * cover))
      }
    }
    return { reach, offsets: Int32Array.from(offsets), shares: Int32Array.from(shares) }
  }

  /**
   * Leaves out a dot whose disc crosses the border.
   * @param {number} x
   * @param {number} y
   * @param {ReturnType<Raster['stamp']>} stamp
   * @param {number} colour pixel
   */
  dot(x, y, stamp, colour) {
    const column = Math.round(x),
      row = Math.round(y),
      { reach, offsets, shares } = stamp
    if (!(column >= reach && row >= reach && column < this.width - reach && row < this.height - reach)) return
    const { pixels } = this,
      at = row * this.width + column
    for (let i = 0; i < offsets.length; i++)
      pixels[at + offsets[i]] = mix(pixels[at + offsets[i]], colour, shares[i])
  }
}
