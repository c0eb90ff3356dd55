/**
 * Images of a trajectory, fetched when needed and kept up to a number of pixels; decoded ones, where the server makes
 * them; and what is drawn from them.
 */
import { api } from '/scripts/api.js'
import { sheet } from './elements.js'
import { diverging } from './scales.js'
import { fileURL } from './server.js'

/** @import { TrajectoryFile } from '../types/views' */

const KEPT_PIXELS = 48e6
const AGAIN_MS = 2000

/** @param {number} width @param {number} height @returns {number} how many images of that size are kept */
const most = (width, height) => Math.max(64, Math.floor(KEPT_PIXELS / (width * height)))

export class Pictures {
  /** @param {TrajectoryFile} view */
  constructor(view) {
    this.view = view
    /** @type {Map<number, {bitmap?: ImageBitmap, promise: Promise<ImageBitmap>}>} */
    this.kept = new Map()
    this.most = most(view.size[0], view.size[1])
  }

  /** @param {number} row @returns {ImageBitmap | undefined} */
  at(row) {
    return this.kept.get(row)?.bitmap
  }

  /** @param {number} row @returns {Promise<ImageBitmap>} */
  load(row) {
    let entry = this.kept.get(row)
    if (entry) {
      this.kept.delete(row)
    } else {
      const { prefix, suffix, subfolder, type } = this.view.images
      const made = {
        promise: fetchBitmap(fileURL({ filename: `${prefix}${row}${suffix}`, subfolder, type })),
      }
      entry = made
      made.promise.then(
        (bitmap) => Object.assign(made, { bitmap }),
        () => this.kept.delete(row),
      )
    }
    this.kept.set(row, entry)
    for (const [old, { bitmap }] of this.kept) {
      if (this.kept.size <= this.most) break
      this.kept.delete(old)
      bitmap?.close()
    }
    return entry.promise
  }

  dispose() {
    for (const { promise } of this.kept.values())
      promise.then(
        (bitmap) => bitmap.close(),
        () => {},
      )
    this.kept.clear()
  }
}

/** Images that the server decodes when asked: one at a time, and only those that are on show. */
export class Decoded {
  /** @type {Map<number, ImageBitmap>} */
  #kept = new Map()
  /** @type {number[]} */
  #wanted = []
  #asking = false
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer
  /** whether the server has said that there will be no more */
  ended = false

  /**
   * @param {string} address of the view's decoder
   * @param {() => void} changed told of every image, and of the end
   */
  constructor(address, changed) {
    this.address = address
    this.changed = changed
  }

  /** @param {number} row @returns {ImageBitmap | undefined} */
  at(row) {
    return this.#kept.get(row)
  }

  /** @param {number[]} rows that are on show from now on */
  want(rows) {
    this.#wanted = rows
    this.#ask()
  }

  async #ask() {
    if (this.#asking || this.ended) return
    clearTimeout(this.#timer)
    this.#asking = true
    for (let row; !this.ended && (row = this.#wanted.find((wanted) => !this.#kept.has(wanted))) !== undefined; )
      if (!(await this.load(row)) && !this.ended) {
        // A prompt runs.
        this.#timer = setTimeout(() => this.#ask(), AGAIN_MS)
        break
      }
    this.#asking = false
  }

  /** @param {number} row @returns {Promise<ImageBitmap | undefined>} nothing while a prompt runs, or at the end */
  async load(row) {
    const kept = this.#kept.get(row)
    if (kept || this.ended) return kept
    /** @type {ImageBitmap | undefined} */
    let bitmap
    try {
      const answer = await fetch(api.apiURL(`${this.address}${row}`))
      if (answer.status === 202) return
      if (answer.status === 200) bitmap = await createImageBitmap(await answer.blob())
    } catch {
      // The server is gone.
    }
    if (!bitmap || this.ended) {
      bitmap?.close()
      this.ended = true
      this.changed()
      return
    }
    this.#kept.set(row, bitmap)
    for (const [old, image] of this.#kept) {
      if (this.#kept.size <= most(bitmap.width, bitmap.height)) break
      this.#kept.delete(old)
      image.close()
    }
    this.changed()
    return bitmap
  }

  dispose() {
    this.changed = () => {}
    this.ended = true
    clearTimeout(this.#timer)
    for (const bitmap of this.#kept.values()) bitmap.close()
    this.#kept.clear()
  }
}

/** @param {string} url */
async function fetchBitmap(url) {
  const answer = await fetch(url)
  if (!answer.ok) throw new Error(`${answer.status}`)
  return createImageBitmap(await answer.blob())
}

/**
 * Signed difference of brightness, `image` less `neutral`, over the neutral in grey: one end of the scale is
 * brighter, the other darker.
 * @param {ImageBitmap} image @param {ImageBitmap} neutral
 * @returns {HTMLCanvasElement}
 */
export function difference(image, neutral) {
  const { width, height } = neutral
  const [canvas, context] = sheet(width, height)
  context.drawImage(neutral, 0, 0)
  const before = context.getImageData(0, 0, width, height)
  context.drawImage(image, 0, 0, width, height)
  const after = context.getImageData(0, 0, width, height).data
  const out = before.data
  for (let i = 0; i < out.length; i += 4) {
    const grey = 0.299 * out[i] + 0.587 * out[i + 1] + 0.114 * out[i + 2]
    const change = (0.299 * after[i] + 0.587 * after[i + 1] + 0.114 * after[i + 2] - grey) / 255
    const share = Math.min(1, Math.abs(change) * 3)
    const colour = diverging(Math.max(-1, Math.min(1, change * 2)))
    for (let c = 0; c < 3; c++) out[i + c] = grey * 0.6 * (1 - share) + colour[c] * share
  }
  context.putImageData(before, 0, 0)
  return canvas
}
