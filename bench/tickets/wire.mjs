/**
 * Reads the unencrypted beginning of TLS connections: which tickets a client offers, and whether the server accepts
 * one. Only TLS 1.3 is read, which has both in the extension `pre_shared_key` (RFC 8446, 4.2.11).
 */
const preSharedKey = 41

/**
 * Collects the data of one side of a connection, and calls `onFirst` once, with its first message. For a client's
 * hello, the list has a string for each ticket that is offered (equal for equal tickets). For a server's hello that
 * accepts a ticket, the list has one element.
 */
export const firstMessage = (onFirst) => {
  let bytes = Buffer.alloc(0)
  let isOver = false
  return (chunk) => {
    if (isOver) return
    bytes = Buffer.concat([bytes, chunk])
    // The head of the record, and of the message in it: a hello is in one record.
    if (bytes.length < 5 || bytes.length < 5 + bytes.readUInt16BE(3)) return
    isOver = true
    const type = bytes[5]
    onFirst(type === 1 ? offeredIn(bytes) : type === 2 && extensionsOf(bytes, 2).has(preSharedKey) ? ["taken"] : [])
  }
}

const offeredIn = (hello) => {
  const extension = extensionsOf(hello, 1).get(preSharedKey)
  if (extension === undefined) return []
  const identities = []
  const end = 2 + extension.readUInt16BE(0)
  for (let at = 2; at < end;) {
    const length = extension.readUInt16BE(at)
    identities.push(extension.toString("base64", at + 2, at + 2 + length))
    // After each stands its age.
    at += 2 + length + 4
  }
  return identities
}

const extensionsOf = (hello, type) => {
  // Record 5, message 4, version 2, random 32; then the session id.
  let at = 43
  at += 1 + hello[at]
  if (type === 1) {
    at += 2 + hello.readUInt16BE(at)
    at += 1 + hello[at]
  } else at += 3
  const extensions = new Map()
  const end = at + 2 + hello.readUInt16BE(at)
  for (at += 2; at < end;) {
    const length = hello.readUInt16BE(at + 2)
    extensions.set(hello.readUInt16BE(at), hello.subarray(at + 4, at + 4 + length))
    at += 4 + length
  }
  return extensions
}
