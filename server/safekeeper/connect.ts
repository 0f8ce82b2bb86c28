/** A safekeeper process as a WalService: WebSockets to its two endpoints (W2 and W4 of the write path). */
import type { NodeId } from '../../engine/model/ids.ts';
import { RemoteWalService } from '../../engine/remote/remote-wal-service.ts';
import { noToken, type TokenSource } from '../auth/tokens.ts';
import { safekeeperPaths, wsUrl } from '../net/url.ts';
import { connectWebSocket } from '../net/ws-channel.ts';

/** `token` is asked for each connection. */
export function connectSafekeeper(
  address: { readonly id: NodeId; readonly host: string; readonly port: number },
  token: TokenSource = noToken,
): RemoteWalService {
  const { id, host, port } = address;
  return new RemoteWalService({
    nodeId: id,
    connect: (endpoint) => connectWebSocket(wsUrl(host, port, safekeeperPaths[endpoint]), token()),
  });
}
