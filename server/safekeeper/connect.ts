/** A safekeeper process as a WalService: WebSockets to its two endpoints (W2 and W4 of the write path). */
import type { NodeId } from '../../engine/model/ids.ts';
import { RemoteWalService } from '../../engine/remote/remote-wal-service.ts';
import { connectWebSocket } from '../net/ws-channel.ts';

/** Paths of the WebSocket URLs: `ws://host:5454/proposer` and `ws://host:5454/wal`. */
export const safekeeperPaths = { proposer: '/proposer', wal: '/wal' } as const;

export function connectSafekeeper(address: {
  readonly id: NodeId;
  readonly host: string;
  readonly port: number;
}): RemoteWalService {
  const { id, host, port } = address;
  return new RemoteWalService({
    nodeId: id,
    connect: (endpoint) => connectWebSocket(`ws://${host}:${port}${safekeeperPaths[endpoint]}`),
  });
}
