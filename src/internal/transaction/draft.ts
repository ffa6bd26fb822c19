import * as Effect from "effect/Effect"
import * as Effectable from "effect/Effectable"
import * as Readable from "effect/Readable"
import * as Ref from "effect/Ref"
import type { Layer } from "./layer.js"
import { outermost, type Transaction } from "./transaction.js"
import { noteUnwinding } from "./unwinding.js"

const variance = { _A: (_: any) => _ }

/** The `Ref` that a body is given: the value of its transaction's layer. */
export class Draft<in out A> extends Effectable.Class<A> implements Ref.Ref<A> {
  readonly [Ref.RefTypeId] = variance
  readonly [Readable.TypeId]: Readable.TypeId = Readable.TypeId
  private readonly layer: Layer<A>
  private readonly transaction: Transaction

  constructor(layer: Layer<A>, transaction: Transaction) {
    super()
    this.layer = layer
    this.transaction = transaction
  }

  get get(): Effect.Effect<A> {
    return Effect.sync(() => this.read())
  }

  commit() {
    return this.get
  }

  modify<B>(f: (a: A) => readonly [B, A]): Effect.Effect<B> {
    return Effect.sync(() => {
      const layer = this.usable()
      const [result, value] = f(layer.value)
      layer.value = value
      return result
    })
  }

  read(): A {
    return this.usable().value
  }

  write(value: A): void {
    this.usable().value = value
  }

  /** Throws when the draft must not be used. */
  private usable(): Layer<A> {
    const { layer, transaction } = this
    if (outermost(transaction).phase === "Aborted") {
      throw noteUnwinding(transaction.errors.conflict(layer.name), transaction)
    }
    if (transaction.phase !== "Open") {
      throw new Error(`the transaction on ${layer.name} is over: its draft can no longer be used`)
    }
    if (layer.holder !== undefined) {
      throw new Error(`a transaction inside this one works on ${layer.name}: use that transaction's draft`)
    }
    return layer
  }
}
