/** The contact sheets of a "map" view: fetched when a picture is asked for, the last few kept. */
import { contextOf } from './elements.js'
import { fileURL } from './server.js'

/** @import { Sheets as Layout } from '../types/views' */

const KEPT = 8

export class Sheets {
  /** @type {Map<number, Promise<HTMLImageElement>>} */
  #images = new Map()

  /** @param {Layout} layout */
  constructor(layout) {
    this.layout = layout
  }

  /** @param {number} number */
  #sheet(number) {
    let image = this.#images.get(number)
    this.#images.delete(number)
    if (!image) {
      const { subfolder, type, prefix, suffix } = this.layout
      image = new Promise((done, fail) => {
        const made = new Image()
        made.onload = () => done(made)
        made.onerror = fail
        made.src = fileURL({ filename: `${prefix}${number}${suffix}`, subfolder, type })
      })
      image.catch(() => this.#images.delete(number))
    }
    this.#images.set(number, image)
    if (this.#images.size > KEPT)
      this.#images.delete(/** @type {number} */ (this.#images.keys().next().value))
    return image
  }

  /**
   * Draw a row's picture over the whole canvas.
   * @param {number} row
   * @param {HTMLCanvasElement} canvas
   * @param {() => boolean} wanted asked once the sheet is there
   */
  async draw(row, canvas, wanted) {
    const { columns, rows, side } = this.layout,
      each = columns * rows
    const image = await this.#sheet(Math.floor(row / each))
    if (!wanted()) return
    const cell = row % each,
      context = contextOf(canvas)
    context.drawImage(
      image,
      (cell % columns) * side,
      Math.floor(cell / columns) * side,
      side,
      side,
      0,
      0,
      canvas.width,
      canvas.height,
    )
  }
}
