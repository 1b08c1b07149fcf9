<?php
// An echo bot. Run it with: php -S 127.0.0.1:8080 echo.php
// It listens on http://127.0.0.1:8080/, which is what component_post_url has to be.
//
// If the environment variable SIGNING_SECRET has the gateway's secret, it only answers requests that are signed with it.

$content = file_get_contents('php://input');

// Whether the request was signed with the secret in the last five minutes (standardwebhooks.com).
function is_signed(string $secret, string $content): bool
{
    $id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
    $timestamp = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    $key = base64_decode(substr($secret, strlen('whsec_')));
    if ($key === '') {
        return false;
    }
    $wanted = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$content", $key, true));
    $fits = false;
    foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $signature) {
        $fits = hash_equals($wanted, $signature) || $fits;
    }
    return $fits && abs(time() - (int) $timestamp) < 300;
}

$secret = getenv('SIGNING_SECRET');
if ($secret !== false && !is_signed($secret, $content)) {
    http_response_code(401);
    exit;
}

$request = json_decode($content);

// A message without a body (somebody is typing, say) needs no reply.
$reply = isset($request->body) ? ['body' => "You said: $request->body"] : [];

header('Content-Type: application/json');
echo json_encode($reply);
