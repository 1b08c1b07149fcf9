<?php
// An echo bot. Run it with: php -S 127.0.0.1:8080 echo.php
// It listens on http://127.0.0.1:8080/, which is what component_post_url has to be.

$request = json_decode(file_get_contents('php://input'));

// A message without a body (somebody is typing, say) needs no reply.
$reply = isset($request->body) ? ['body' => "You said: $request->body"] : [];

header('Content-Type: application/json');
echo json_encode($reply);
