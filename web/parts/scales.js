/**
 * Colour scales that stay apart for colour-blind eyes; every colour is [red, green, blue], each 0 to 255.
 * @typedef {[number, number, number]} RGB
 */

/** @type {RGB[]} viridis at nine equal steps */
const VIRIDIS = [
  [68, 1, 84],
  [71, 45, 123],
  [59, 82, 139],
  [44, 114, 142],
  [33, 145, 140],
  [40, 174, 128],
  [94, 201, 98],
  [173, 220, 48],
  [253, 231, 37],
]
/** @type {RGB[]} blue, white, orange */
const DIVERGING = [
  [8, 69, 148],
  [66, 146, 198],
  [247, 247, 247],
  [241, 138, 42],
  [166, 71, 4],
]
/** @type {RGB} the colour of a value that is not there */
export const GREY = [128, 128, 128]

/** @param {RGB[]} table @param {number} t 0 to 1; outside it the end colour @returns {RGB} */
function between(table, t) {
  const place = Math.min(1, Math.max(0, t)) * (table.length - 1)
  const low = Math.min(Math.floor(place), table.length - 2)
  return /** @type {RGB} */ (
    table[low].map((from, i) => Math.round(from + (table[low + 1][i] - from) * (place - low)))
  )
}

/** @param {number} t 0 (dark violet) to 1 (yellow) @returns {RGB} grey for NaN */
export const sequential = (t) => (Number.isNaN(t) ? GREY : between(VIRIDIS, t))

/** @param {number} t -1 (blue) through 0 (white) to 1 (orange) @returns {RGB} grey for NaN */
export const diverging = (t) => (Number.isNaN(t) ? GREY : between(DIVERGING, (t + 1) / 2))

/** One hue per number, a golden angle apart, all of one OKLCH lightness. @param {number} i @returns {RGB} */
export function categorical(i) {
  const hue = i * Math.PI * (3 - Math.sqrt(5)),
    lightness = 0.7,
    chroma = 0.12
  const a = chroma * Math.cos(hue),
    b = chroma * Math.sin(hue)
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ]
  const encode = (/** @type {number} */ v) => (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055)
  return /** @type {RGB} */ (linear.map((v) => Math.round(255 * encode(Math.min(1, Math.max(0, v))))))
}

/** @param {string} text '#RRGGBB' @returns {RGB} grey for anything else */
export function fromHex(text) {
  const found = /^#([0-9a-f]{6})$/i.exec(text ?? '')
  return found ? /** @type {RGB} */ ([0, 2, 4].map((i) => parseInt(found[1].slice(i, i + 2), 16))) : GREY
}

/** @param {RGB} rgb @returns {string} */
export const toCSS = (rgb) => `rgb(${rgb.join(', ')})`

/** @param {RGB} rgb @returns {number} the pixel's 32 bits as ImageData lays them out (little-endian) */
export const toPixel = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0
