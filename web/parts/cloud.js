/**
 * The rows of a 'map' view as typed arrays, scaled to the square -0.5 to 0.5, with a grid that finds the
 * nearest.
 */
/** @import { MapFile } from '../types/views' */

export class Cloud {
  /** @param {MapFile} view */
  constructor(view) {
    const rows = Math.min(view.x.length, view.y.length)
    this.count = rows
    this.x = new Float32Array(rows)
    this.y = new Float32Array(rows)
    this.patient = new Int32Array(rows).fill(-1)
    /** the attribute's number; -1 where several share the row (the neutral of a swap) */
    this.attribute = new Int16Array(rows).fill(-1)
    this.point = new Int16Array(rows)
    this.attributes = view.attributes.length
    this.steps = view.points.length
    const paths = new Int32Array(view.seeds.length * this.attributes * this.steps).fill(-1)
    let at = 0
    view.seeds.forEach((_, p) =>
      view.attributes.forEach((_, a) => {
        for (let n = 0; n < this.steps; n++, at++) {
          const row = view.index[p]?.[a]?.[n]
          if (!(row >= 0 && row < rows) || !Number.isFinite(view.x[row]) || !Number.isFinite(view.y[row]))
            continue
          paths[at] = row
          this.attribute[row] = this.patient[row] < 0 ? a : this.attribute[row] === a ? a : -1
          this.patient[row] = p
          this.point[row] = n
        }
      }),
    )
    /** rows in the order patient, attribute, point; -1 where there is none */
    this.paths = paths
    this.#scale(view)
    /** cells along a side of the grid, some two rows a cell */
    this.side = Math.max(1, Math.round(Math.sqrt(rows / 2)))
    /** where in `sorted` each cell's rows begin */
    this.first = new Int32Array(this.side * this.side + 1)
    /** rows in the order of their cells */
    this.sorted = new Int32Array(rows)
    this.#sort()
  }

  /** @param {MapFile} view */
  #scale(view) {
    let left = Infinity,
      right = -Infinity,
      top = Infinity,
      bottom = -Infinity
    for (let r = 0; r < this.count; r++) {
      if (this.patient[r] < 0) continue
      left = Math.min(left, view.x[r])
      right = Math.max(right, view.x[r])
      top = Math.min(top, view.y[r])
      bottom = Math.max(bottom, view.y[r])
    }
    const span = Math.max(right - left, bottom - top) || 1
    for (let r = 0; r < this.count; r++) {
      this.x[r] = (view.x[r] - (left + right) / 2) / span
      this.y[r] = ((top + bottom) / 2 - view.y[r]) / span
    }
  }

  /** Counting sort of the rows by grid cell. */
  #sort() {
    const cellOf = (/** @type {number} */ r) => this.#cell(this.y[r]) * this.side + this.#cell(this.x[r])
    for (let r = 0; r < this.count; r++) if (this.patient[r] >= 0) this.first[cellOf(r) + 1]++
    for (let c = 0; c < this.side * this.side; c++) this.first[c + 1] += this.first[c]
    const next = this.first.slice()
    for (let r = 0; r < this.count; r++) if (this.patient[r] >= 0) this.sorted[next[cellOf(r)]++] = r
  }

  /** @param {number} v */
  #cell(v) {
    return Math.min(this.side - 1, Math.max(0, Math.floor((v + 0.5) * this.side)))
  }

  /**
   * The nearest row no further than `reach`.
   * @param {number} x @param {number} y @param {number} reach in the scaled square
   * @param {(row: number) => boolean} accept
   * @returns {number} -1 where none is
   */
  nearest(x, y, reach, accept) {
    let best = -1,
      least = reach * reach
    for (let j = this.#cell(y - reach); j <= this.#cell(y + reach); j++) {
      for (let i = this.#cell(x - reach); i <= this.#cell(x + reach); i++) {
        for (let k = this.first[j * this.side + i]; k < this.first[j * this.side + i + 1]; k++) {
          const row = this.sorted[k],
            far = (this.x[row] - x) ** 2 + (this.y[row] - y) ** 2
          if (far <= least && accept(row)) [best, least] = [row, far]
        }
      }
    }
    return best
  }

  /**
   * Rows inside a polygon (even-odd).
   * @param {number[][]} polygon [x, y] in the scaled square
   * @param {(row: number) => boolean} accept
   */
  inside(polygon, accept) {
    const rows = []
    for (let r = 0; r < this.count; r++) {
      if (this.patient[r] < 0 || !accept(r)) continue
      let within = false
      for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
        const [xi, yi] = polygon[i],
          [xj, yj] = polygon[j]
        if (yi > this.y[r] !== yj > this.y[r] && this.x[r] < ((xj - xi) * (this.y[r] - yi)) / (yj - yi) + xi)
          within = !within
      }
      if (within) rows.push(r)
    }
    return rows
  }
}
